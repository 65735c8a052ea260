"""Why the server's container exited, and what to do about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

# The server's exit codes.
ENGINE_DIED: Final = 70
TRY_LATER: Final = 75
CONFIGURATION: Final = 78

# Why a download failed, by the text of the error, with what to do. `HTTP 404` and the like are the
# words of `qwen-server download`, the others those of the libraries that vLLM downloads with.
_DOWNLOAD_FAILED: Final = {
    re.compile(pattern, re.IGNORECASE): advice
    for pattern, advice in (
        (
            r"No space left on device|not enough free disk space|Disk quota exceeded",
            "The disk is full: increase cache.size, or the ephemeral storage of the node.",
        ),
        (
            r"429 Client Error|HTTP 429|Too Many Requests",
            "The hub limits the number of requests: wait, set a token, or use a mirror (HF_ENDPOINT).",
        ),
        (
            r"(?<!private or )gated ?repo|40[13] Client Error|HTTP 40[13]|Unauthorized|"
            r"Access to model .* is restricted",
            "The hub denies access: check the token's Secret, its access to the model, and the model's name.",
        ),
        (
            r"RepositoryNotFound|repository not found|RevisionNotFound|RemoteEntryNotFound|404 Client Error|"
            r"HTTP 404|HTTP 410",
            "The hub does not have it: check the repository and the revision in model.source.",
        ),
        (
            r"HTTP 5[0-9][0-9]",
            "The hub has an error: wait, or use a mirror (HF_ENDPOINT).",
        ),
        (
            r"another checksum",
            "Files arrive damaged: check the mirror or the proxy, and the disk.",
        ),
        (
            r"couldn't connect to|could not connect to|cannot be reached|Max retries exceeded|Failed to resolve|"
            r"LocalEntryNotFound|"
            r"Name or service not known|Temporary failure in name resolution|Read timed out",
            "The hub cannot be reached: check DNS, the network, NetworkPolicies and the proxy, or use a mirror "
            "(HF_ENDPOINT).",
        ),
    )
}
_OUT_OF_MEMORY: Final = re.compile(r"out of memory|OutOfMemoryError|cannot allocate memory", re.IGNORECASE)
# The server's own check before it loads anything, and vLLM's after it has loaded the weights.
_TOO_LARGE: Final = re.compile(
    r"it does not fit: |is needed, which is larger than the available KV cache memory|"
    r"No available memory for the cache blocks"
)
_MEMORY: Final = "Increase resources.limits.memory."
_GPU_MEMORY: Final = "Reduce engine.gpuMemoryUtilization or engine.maxModelLen, or use more GPUs."
_STOPPED: Final = "Something keeps ending it: see the Events of the pod (failed probes, restarts), and podTemplate."


def exit_reason(last: Mapping[str, Any], code: int, text: str, *, looping: bool, late: bool = False) -> tuple[str, str]:
    """The reason of the server's exit, and what to do if the reason does not say it.

    `late` says that the kubelet has ended it because it had not started in time. With code 0, it
    has ended more than once.
    """
    if last.get("reason") == "OOMKilled":
        return "OutOfMemory", _MEMORY
    if _OUT_OF_MEMORY.search(text):
        return "OutOfMemory", _GPU_MEMORY if "cuda" in text.lower() else ""
    if code in (CONFIGURATION, TRY_LATER):
        return _of_start(code, text)
    if late:
        return "StartupTimeout", ""
    looping = looping and code != ENGINE_DIED
    return "CrashLoopBackOff" if looping or code == 0 else "EngineFailed", "" if code else _STOPPED


def _of_start(code: int, text: str) -> tuple[str, str]:
    """The same for a server that could not start with its configuration, or its model."""
    if _TOO_LARGE.search(text):
        return "ModelTooLarge", ""
    found = [advice for pattern, advice in _DOWNLOAD_FAILED.items() if pattern.search(text)]
    if found or code == TRY_LATER:
        return "ModelDownloadFailed", found[0] if found else ""
    return "ModelLoadFailed", ""
