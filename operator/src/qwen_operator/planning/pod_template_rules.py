"""What `podTemplate` may set, where the operator narrows it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from qwen_operator.api.metadata import PodTemplate
from qwen_operator.planning.builders.merge import LIST_KEYS

EVERYTHING: Final = "*"


def forbidden_fields(template: PodTemplate, allowed: Collection[str]) -> list[str]:
    """The fields that a pod template sets although they are not allowed, as paths.

    `allowed` holds paths such as `spec.containers.resources`, which allow all that is below them.
    `*` allows everything.
    """
    if EVERYTHING in allowed:
        return []
    labels, annotations = template.metadata.labels, template.metadata.annotations
    metadata = {key: value for key, value in (("labels", labels), ("annotations", annotations)) if value}
    given = {key: value for key, value in (("metadata", metadata), ("spec", template.spec)) if value}
    return list(dict.fromkeys(path for key, value in given.items() for path in _outside(value, key, allowed)))


def refusal(template: PodTemplate, allowed: Collection[str]) -> str | None:
    """Why a pod template is refused; None if it is not."""
    fields = forbidden_fields(template, allowed)
    if not fields:
        return None
    named = ", ".join(f"podTemplate.{field}" for field in fields)
    may = ", ".join(sorted(allowed)) or "nothing"
    return (
        f"This operator does not allow {named}. podTemplate may set: {may}. Remove the rest, or have the value "
        "podTemplate.allow of the operator's chart changed."
    )


def _outside(value: Any, path: str, allowed: Collection[str]) -> Iterator[str]:
    if path in allowed:
        return
    if not any(entry.startswith(f"{path}.") for entry in allowed):
        yield path
        return
    many = isinstance(value, list)
    keys = LIST_KEYS.get(path.rpartition(".")[2], ()) if many else ()
    for item in value if many else [value]:
        if not isinstance(item, Mapping):  # such as null, which would remove all that is below it
            yield path
            continue
        for key, part in item.items():
            if key not in keys:  # the keys only say which item of a list is meant
                yield from _outside(part, f"{path}.{key}", allowed)
