"""Reads what a model needs of memory from its files: its configuration and the weights' heads.

Only local files are read, also those in the cache of the Hugging Face Hub, and no more than a
bounded part of each. What cannot be read is not known.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_JSON = 1 << 26
_MAX_SHARDS = 1000
_INDEX = "model.safetensors.index.json"
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# vLLM does not load these.
_UNUSED = re.compile(r"mtp\.|.*rotary_emb\.inv_freq")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in the files, without those that vLLM does not load.

    values: how many are floating-point numbers, which take the engine's data type.
    other_bytes: the size of all else, such as quantized weights.
    """

    values: int
    other_bytes: int


def model_folder(model: str, revision: str | None, environment: Mapping[str, str]) -> Path | None:
    """Returns the folder of a model: a path, or its place in a hub's cache. None if there is none.

    A repository of ModelScope counts only as a path, because its cache depends on the release of
    its library.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or environment.get("VLLM_USE_MODELSCOPE", "").lower() == "true":
        return None
    home = environment.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = Path(environment.get("HF_HUB_CACHE") or Path(home) / "hub") / f"models--{model.replace('/', '--')}"
    commit = revision or "main"
    try:
        if not re.fullmatch("[0-9a-f]{40}", commit):
            commit = (cache / "refs" / commit).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    folder = cache / "snapshots" / commit
    return folder if folder.is_dir() else None


def read_config(folder: Path) -> dict[str, Any] | None:
    """Returns the content of config.json; None if it cannot be read."""
    found = _json(folder / "config.json")
    return found if isinstance(found, dict) else None


def read_weights(folder: Path, *, tied: bool, quantized: bool) -> Weights | None:
    """Counts the weights by the heads of all safetensors files; None if one cannot be read.

    tied: whether the output layer is the input layer, so that a copy in the files is not loaded.
    quantized: whether the files are quantized, so that all of their tensors stay as they are.
    """
    values = other_bytes = 0
    try:
        for shard in _shards(folder):
            for name, tensor in _tensors(shard):
                if _UNUSED.match(name) or (tied and name == "lm_head.weight"):
                    continue
                if tensor["dtype"] in _FLOATS and not quantized:
                    values += math.prod(tensor["shape"])
                else:
                    begin, end = tensor["data_offsets"]
                    other_bytes += end - begin
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Weights(values, other_bytes) if values or other_bytes else None


def _shards(folder: Path) -> list[Path]:
    """The files that vLLM loads. Raises ValueError if it is not clear which these are."""
    if (folder / _INDEX).is_file():
        index = _json(folder / _INDEX)
        names = sorted(set(index["weight_map"].values())) if isinstance(index, dict) else []
    else:
        names = ["model.safetensors"]
    if not names or len(names) > _MAX_SHARDS or any(os.sep in name for name in names):
        raise ValueError("no list of files")
    return [folder / name for name in names]


def _tensors(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tensors of a safetensors file: its first 8 bytes are the length of its head in JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_JSON:
            raise ValueError("no safetensors file")
        head = json.loads(file.read(length))
    head.pop("__metadata__", None)
    yield from head.items()


def _json(path: Path) -> Any:
    """The content of a file; None if it is missing, too long or no JSON."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_JSON + 1)
        return json.loads(content) if len(content) <= _MAX_JSON else None
    except (OSError, ValueError, RecursionError):
        return None
