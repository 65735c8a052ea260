"""The chat template of `model.chatTemplate`: its volume, and the server's flag that names it."""

from __future__ import annotations

from typing import Final

from qwen_operator.api import QwenServiceSpec
from qwen_operator.api.objects import Object

VOLUME: Final = "chat-template"
_FOLDER: Final = "/etc/qwen/chat-template"
_FILE: Final = "chat_template.jinja"


def template_file(spec: QwenServiceSpec) -> str | None:
    """The path of the template in the server's container."""
    return None if spec.model.chat_template is None else f"{_FOLDER}/{_FILE}"


def template_volumes(spec: QwenServiceSpec) -> list[Object]:
    """The ConfigMap's key as a volume. The pod does not start without it."""
    if spec.model.chat_template is None:
        return []
    reference = spec.model.chat_template.config_map_ref
    return [{"name": VOLUME, "configMap": {"name": reference.name, "items": [{"key": reference.key, "path": _FILE}]}}]


def template_mounts(spec: QwenServiceSpec) -> list[Object]:
    """Where the server's container has the template."""
    if spec.model.chat_template is None:
        return []
    return [{"name": VOLUME, "mountPath": _FOLDER, "readOnly": True}]
