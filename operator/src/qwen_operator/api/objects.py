"""Objects of the Kubernetes API as plain dicts, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""
EventType = Literal["Normal", "Warning"]


class Owner(Protocol):
    """What children are known by: the identity of the object that they belong to."""

    @property
    def namespace(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def uid(self) -> str: ...


def key_of(obj: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def is_owned_by(obj: Mapping[str, Any], uid: str) -> bool:
    """Whether an object has an owner reference to this UID."""
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or ())
