"""spec.resources."""

from __future__ import annotations

from pydantic import Field

from qwen_operator.api.base import ApiObject, Quantity, ValidationRule, parse_quantity


def _smallest(section: str, resource: str, low: str) -> ValidationRule:
    """The rule that a quantity is at least `low`: less is a wrong unit."""
    given = f"self.{section}['{resource}']"
    return ValidationRule(
        f"!has(self.{section}) || !('{resource}' in self.{section}) || "
        f"quantity(string({given})).compareTo(quantity('{low}')) >= 0",
        f"{section}.{resource} must be at least {low}",
        lambda resources: parse_quantity(getattr(resources, section).get(resource, low)) >= parse_quantity(low),
        section,
    )


def _within_limit(resource: str) -> ValidationRule:
    """The rule that the request of a resource is not above its limit."""
    both = " || ".join(f"!has(self.{part}) || !('{resource}' in self.{part})" for part in ("requests", "limits"))
    request, limit = (f"quantity(string(self.{part}['{resource}']))" for part in ("requests", "limits"))

    def holds(resources: Resources) -> bool:
        limit = resources.limits.get(resource)
        return limit is None or parse_quantity(resources.requests.get(resource, "0")) <= parse_quantity(limit)

    return ValidationRule(
        f"{both} || {request}.compareTo({limit}) <= 0",
        f"requests.{resource} must be at most limits.{resource}",
        holds,
        "requests",
    )


class Resources(ApiObject):
    """Requests and limits of the server's container; GPUs come from spec.gpu."""

    checks = (
        _smallest("requests", "memory", "1Mi"),
        _smallest("limits", "memory", "1Mi"),
        _smallest("limits", "cpu", "1m"),
        _within_limit("memory"),
        _within_limit("cpu"),
    )

    requests: dict[str, Quantity] = Field(
        default_factory=dict, max_length=32, description="What the scheduler reserves, such as cpu and memory."
    )
    limits: dict[str, Quantity] = Field(
        default_factory=dict, max_length=32, description="The most that the container may use."
    )
