"""The certificate authorities of `engine.trustedCA`: their volume, and variables that name it."""

from __future__ import annotations

from typing import Final

from qwen_operator.api import QwenServiceSpec
from qwen_operator.api.objects import Object

_VOLUME: Final = "trusted-ca"
_FOLDER: Final = "/etc/qwen/trusted-ca"
_FILE: Final = "ca-bundle.crt"
# OpenSSL, and with it httpx, huggingface_hub and aiohttp; requests, and with it ModelScope; curl.
# Each of them replaces the authorities of the image.
_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def trust_environment(spec: QwenServiceSpec) -> list[Object]:
    """The variables by which libraries find the bundle."""
    if spec.engine.trusted_ca is None:
        return []
    return [{"name": name, "value": f"{_FOLDER}/{_FILE}"} for name in _VARIABLES]


def trust_volumes(spec: QwenServiceSpec) -> list[Object]:
    """The ConfigMap's key as a volume. The pod does not start without it."""
    if spec.engine.trusted_ca is None:
        return []
    bundle = spec.engine.trusted_ca.config_map_ref
    return [{"name": _VOLUME, "configMap": {"name": bundle.name, "items": [{"key": bundle.key, "path": _FILE}]}}]


def trust_mounts(spec: QwenServiceSpec) -> list[Object]:
    """Where the server's container has the bundle."""
    if spec.engine.trusted_ca is None:
        return []
    return [{"name": _VOLUME, "mountPath": _FOLDER, "readOnly": True}]
