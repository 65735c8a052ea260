"""Compares two states of an object. Pure."""

from __future__ import annotations

from qwen_operator.api.objects import Object


def newer(obj: Object, old: Object | None) -> bool:
    """Whether a state of an object is at least as new as another one."""
    if old is None or old["metadata"]["uid"] != obj["metadata"]["uid"]:
        return True
    versions = (obj["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"])
    # Resource versions of one resource are growing numbers. If they are not, the last state wins.
    return not all(version.isdigit() for version in versions) or int(versions[0]) >= int(versions[1])


def later(obj: Object, version: str) -> bool:
    """Whether a state is known to be newer than a version of the same object."""
    own = obj["metadata"]["resourceVersion"]
    return bool(own.isdigit() and version.isdigit() and int(own) > int(version))


def same(obj: Object, old: Object | None) -> bool:
    """Whether two states have the same resourceVersion."""
    return old is not None and old["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]


def same_but_status(obj: Object, old: Object | None) -> bool:
    """Whether two states differ in nothing but the status and who set which field."""
    return old is not None and _rest(obj) == _rest(old)


def _rest(obj: Object) -> Object:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in ("resourceVersion", "managedFields")}
    return {**obj, "metadata": metadata, "status": None}
