"""Downloads a LoRA adapter into the cache of its hub, while the server runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from qwen_server.control.adapters import AdapterError
from qwen_server.control.adapters_file import Source
from qwen_server.download.failures import Failure, explain
from qwen_server.download.model_scope import ModelScopeRepository
from qwen_server.download.progress import Tracker
from qwen_server.engine.adapter_files import CONFIG, WEIGHTS

_FILES: Final = (CONFIG, WEIGHTS)
_log = logging.getLogger("qwen_server.download")


def fetch_adapter(source: Source, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """Downloads the two files of an adapter and returns their folder. It blocks.

    Where the Hugging Face Hub cannot be asked, a copy in the cache is used. `cache` and `endpoint`
    are by default those of the environment. Raises AdapterError, which is temporary unless the hub
    cannot give the adapter.
    """
    try:
        if source.hub == "modelscope":
            return ModelScopeRepository(source.repository, source.revision, Tracker(), cache, only=_FILES).fetch()
        # Imported here, because ModelScope does not need it.
        from qwen_server.download.hugging_face import HuggingFaceRepository  # noqa: PLC0415

        return HuggingFaceRepository(
            source.repository, source.revision, Tracker(), cache, endpoint, only=_FILES
        ).fetch()
    except Exception as error:  # the libraries raise anything
        failure = explain(error)
        kept = _kept(source, cache, failure) if source.hub == "huggingface" else None
        if kept is not None:
            _log.warning("%s is taken from the cache: %s", source.label, failure.cause)
            return kept
        raise AdapterError(f"cannot be downloaded: {failure.cause}", temporary=not failure.permanent) from error


def _kept(source: Source, cache: Path | None, failure: Failure) -> Path | None:
    """The folder of an earlier download, if the hub cannot be asked."""
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415 - as above

    if failure.permanent and not constants.HF_HUB_OFFLINE:
        return None
    where: dict[str, Any] = {"revision": source.revision, "cache_dir": cache, "allow_patterns": list(_FILES)}
    try:
        found = snapshot_download(source.repository, local_files_only=True, **where)
    except Exception:  # noqa: BLE001 - the library raises anything
        return None
    return Path(found) if all((Path(found) / name).is_file() for name in _FILES) else None
