"""spec.slo: service level objectives."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from qwen_operator.api.base import ApiObject, Duration, ValidationRule, Window, duration_field, parse_duration

Percentage = Annotated[str, Field(max_length=8, pattern=r"^[1-9][0-9]?(\.[0-9]+)?$")]
TTFT_BOUNDS: Final = (
    "5ms", "10ms", "25ms", "50ms", "100ms", "250ms", "500ms", "750ms", "1s", "2s", "2500ms", "5s", "7500ms", "10s",
    "20s", "30s", "1m", "2m", "5m", "10m",
)  # fmt: skip
"""The bounds of the server's histogram: only at these the number of faster requests is known."""

_KNOWN: Final = frozenset(map(parse_duration, TTFT_BOUNDS))
_IN_CEL: Final = ", ".join(f"duration('{bound}')" for bound in TTFT_BOUNDS)
_BOUND: Final = ValidationRule(
    f"duration(self) in [{_IN_CEL}]",
    f"must be a bound of the server's histogram: {', '.join(TTFT_BOUNDS)}",
    lambda threshold: threshold in _KNOWN,
)


class LatencyObjective(ApiObject):
    """A latency and the percentage of requests that must meet it."""

    threshold: Annotated[Duration, _BOUND] = Field(description="Latency.")
    objective: Percentage = Field(description="Percentage of requests, as a string.")


class SloSpec(ApiObject):
    """Service level objectives, for burn-rate alerts."""

    checks = (
        ValidationRule(
            "has(self.availability) || has(self.ttft)",
            "availability or ttft must be set",
            lambda slo: slo.availability is not None or slo.ttft is not None,
        ),
    )

    availability: Percentage | None = Field(
        default=None,
        description="Percentage of requests that must be answered, as a string, such as 99.5. Failed and refused "
        "requests are not.",
    )
    ttft: LatencyObjective | None = Field(
        default=None, description="Time to the first token, from the request's arrival."
    )
    window: Window = duration_field("30d", "Window of the objectives, from 7d to 90d.")
