"""The LoRA adapters of a service: the file that its servers follow, and where downloads go."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Final

from qwen_operator.api import QwenServiceSpec
from qwen_operator.api.adapters import AdapterSource
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.source import CACHE_PATH

ADAPTERS_KEY: Final = "adapters.json"
"""The key of the file in the ConfigMap of the alerts, which is mounted as a folder."""

_LABEL: Final = 200
"""Characters of a source that the server's metrics show, from its end."""


def adapters_file(spec: QwenServiceSpec) -> dict[str, str]:
    """The data of the ConfigMap that declares the adapters; nothing if the engine has no room."""
    if spec.lora_room is None:
        return {}
    entries = [{"name": adapter.name, **_entry(adapter.source)} for adapter in spec.adapters]
    return {ADAPTERS_KEY: json.dumps({"adapters": entries}, indent=1, ensure_ascii=False) + "\n"}


def source_label(source: AdapterSource) -> str:
    """What the server's metrics call the source. It reads `/a//b/` as `/a/b`."""
    entry = _entry(source)
    text = str(PurePosixPath(entry["path"])) if "path" in entry else f"{entry['repository']}@{entry['revision']}"
    return text[-_LABEL:]


def adapter_environment(spec: QwenServiceSpec) -> list[Object]:
    """Where the pods keep what they download. The source of the model may have said it already."""
    if spec.lora_room is None:
        return []
    store = CACHE_PATH if spec.cache is not None else "/tmp"  # noqa: S108 - the pod's own emptyDir
    folders = {"HF_HOME": f"{store}/huggingface", "MODELSCOPE_CACHE": f"{store}/modelscope"}
    return [{"name": name, "value": folder} for name, folder in folders.items()]


def _entry(source: AdapterSource) -> dict[str, str]:
    if source.path is not None:
        return {"path": source.path}
    hub = "modelscope" if source.hugging_face is None else "huggingface"
    repository = source.hugging_face or source.model_scope
    if repository is None:
        raise ValueError("an adapter without a source")  # the schema and the reader refuse it
    return {"repository": repository.repo, "revision": repository.revision, "hub": hub}
