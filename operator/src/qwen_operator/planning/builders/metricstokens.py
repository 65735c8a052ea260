"""Who may read the metrics of a service that protects them: Prometheus and the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qwen_operator.api import QwenService, QwenServiceSpec
from qwen_operator.api.names import child_name
from qwen_operator.api.objects import Object
from qwen_operator.api.tokens import metrics_token, token_hash

FOLDER: Final = "/etc/qwen/metrics-tokens"
HASHES_KEY: Final = "metrics-tokens"
"""The key of the operator's hashes in the ConfigMap of the alerts."""

_VOLUME: Final = "metrics-tokens"


def operator_hashes(service: QwenService, keys: Sequence[str]) -> dict[str, str]:
    """The data of the ConfigMap that lets the operator in, for each of its keys."""
    tokens = [metrics_token(key, service.namespace, child_name(service.name)) for key in keys]
    return {HASHES_KEY: "".join(f"{token_hash(token)}\n" for token in tokens)} if tokens else {}


def token_volumes(name: str, spec: QwenServiceSpec) -> list[Object]:
    """The volume with the token of Prometheus and the hashes of the operator's."""
    reference = spec.auth.metrics_token_secret_ref
    if reference is None:
        return []
    sources: list[Object] = [
        {"secret": {"name": reference.name, "items": [{"key": reference.key, "path": "prometheus"}]}},
        {
            "configMap": {
                "name": child_name(name, "alerts"),
                "items": [{"key": HASHES_KEY, "path": "operator"}],
                "optional": True,
            }
        },
    ]
    return [{"name": _VOLUME, "projected": {"sources": sources}}]


def token_mounts(spec: QwenServiceSpec) -> list[Object]:
    """The mount of the volume."""
    if spec.auth.metrics_token_secret_ref is None:
        return []
    return [{"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}]


def scrape_authorization(spec: QwenServiceSpec) -> Object:
    """What a ServiceMonitor says about the token, as a part of its endpoint."""
    reference = spec.auth.metrics_token_secret_ref
    if reference is None:
        return {}
    return {"authorization": {"credentials": {"name": reference.name, "key": reference.key}}}
