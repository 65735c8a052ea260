"""The files of a repository: which of them vLLM needs, and whether a copy is intact."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

# The weights in the form in which they were trained.
_ORIGINAL = ("original/*",)
_OTHER_WEIGHTS = (
    *("*.bin", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot", "*.pt", "*.pth"),
    *("*.tflite",),
)
_CHUNK = 1 << 22


class RemoteFile(NamedTuple):
    """A file of a repository.

    `size` is in bytes. The hub gives the SHA-256 of the content, or the SHA-1 by which git knows
    it, or neither (both are empty).
    """

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


class DamagedFileError(Exception):
    """A file arrived whose checksum is not the one that the hub gives."""


def left_out(paths: Iterable[str]) -> list[str]:
    """Patterns (of `fnmatch`) of the files that vLLM does not read.

    Many repositories have the same weights in several formats. vLLM takes safetensors where there
    are any.
    """
    safetensors = any(
        path.endswith(".safetensors") and not any(fnmatch(path, pattern) for pattern in _ORIGINAL) for path in paths
    )
    return [*_ORIGINAL, *(_OTHER_WEIGHTS if safetensors else ())]


def is_left_out(path: str, patterns: Iterable[str]) -> bool:
    """Whether a file matches one of the patterns."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def is_intact(path: Path, file: RemoteFile, alive: Callable[[], None] = lambda: None) -> bool:
    """Whether a copy has the size and the checksum of the original.

    `alive` is called again and again, because large files take minutes.
    """
    size = path.stat().st_size
    if size != file.size:
        return False
    if file.sha256:
        return _digest(path, hashlib.sha256(), alive) == file.sha256
    if file.git_sha1:
        return _digest(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), alive) == file.git_sha1
    return True


def _digest(path: Path, checksum: Any, alive: Callable[[], None]) -> str:
    with path.open("rb", buffering=0) as content:
        while chunk := content.read(_CHUNK):
            checksum.update(chunk)
            alive()
    return str(checksum.hexdigest())
