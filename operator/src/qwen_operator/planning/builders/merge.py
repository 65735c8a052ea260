"""Merges a partial PodSpec into the one that was built, as kubectl's strategic merge patch does.

Objects merge field by field; a field that is null is removed. Lists whose items have a key merge
item by item: an item with a new key is appended, `$patch: delete` in an item removes it, `$patch:
replace` in an object replaces it as a whole. Other lists are replaced. If only one of several
fields may be set (the source of a volume, the handler of a probe, the value of an environment
variable), the field in the patch replaces the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

LIST_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "imagePullSecrets": ("name",),
    "readinessGates": ("conditionType",),
    "schedulingGates": ("name",),
    "resourceClaims": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
KEY_DEFAULTS: Final = {"protocol": "TCP"}
_PROBE_HANDLERS: Final = frozenset({"httpGet", "tcpSocket", "exec", "grpc"})
_UNIONS: Final[dict[str, frozenset[str]]] = {
    "env": frozenset({"value", "valueFrom"}),
    "startupProbe": _PROBE_HANDLERS,
    "readinessProbe": _PROBE_HANDLERS,
    "livenessProbe": _PROBE_HANDLERS,
    "preStop": frozenset({"exec", "httpGet", "sleep", "tcpSocket"}),
    "postStart": frozenset({"exec", "httpGet", "sleep", "tcpSocket"}),
}
_DIRECTIVE: Final = "$patch"


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], field: str = "") -> dict[str, Any]:
    """`base` with `patch` merged into it; neither is modified. `field` is the name of the field."""
    if patch.get(_DIRECTIVE) == "replace":
        return _without_directives(patch)
    result = {key: value for key, value in base.items() if not _displaced(key, patch, field)}
    for key, value in patch.items():
        if key == _DIRECTIVE:
            continue
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_value(result.get(key), value, key)
    return result


def _merge_value(base: Any, patch: Any, field: str) -> Any:
    if isinstance(patch, Mapping):
        return merge(base if isinstance(base, Mapping) else {}, patch, field)
    if isinstance(patch, list) and field in LIST_KEYS and all(isinstance(item, Mapping) for item in patch):
        return _merge_list(base if isinstance(base, list) else [], patch, field)
    return patch


def _merge_list(base: list[Any], patch: list[Any], field: str) -> list[Any]:
    merged = {_identity(item, field): item for item in base}
    for item in patch:
        identity = _identity(item, field)
        if item.get(_DIRECTIVE) == "delete":
            merged.pop(identity, None)
        else:
            merged[identity] = merge(merged.get(identity, {}), item, field)
    return list(merged.values())


def _identity(item: Mapping[str, Any], field: str) -> tuple[str, ...]:
    # As text, because a free-form patch may have a list as a name, which the API server rejects.

    return tuple(json.dumps(item.get(key, KEY_DEFAULTS.get(key)), sort_keys=True) for key in LIST_KEYS[field])


def _displaced(key: str, patch: Mapping[str, Any], field: str) -> bool:
    """Whether a field of the base is dropped because the patch sets another field of its union."""

    if field == "volumes":
        return key != "name" and key not in patch and any(other != "name" for other in patch)
    union = _UNIONS.get(field, frozenset())
    return key in union and key not in patch and any(other in union and patch[other] is not None for other in patch)


def _without_directives(patch: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in patch.items() if key != _DIRECTIVE and value is not None}
