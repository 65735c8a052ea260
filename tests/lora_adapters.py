"""Tiny LoRA adapters for the built-in model and others, written without PEFT and torch."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, RANK = 192, 2, 4
_PREFIX = "base_model.model.model.layers"


def weights(
    *, seed: int, rank: int = RANK, inputs: int = HIDDEN, outputs: int = HIDDEN, layers: int = LAYERS
) -> dict[str, list[list[float]]]:
    """The matrices of an adapter for the queries and values of each layer."""
    chance = random.Random(seed)

    def matrix(rows: int, columns: int) -> list[list[float]]:
        return [[chance.gauss(0, 0.3) for _ in range(columns)] for _ in range(rows)]

    made = {}
    for layer in range(layers):
        for name in ("q_proj", "v_proj"):
            made[f"{_PREFIX}.{layer}.self_attn.{name}.lora_A.weight"] = matrix(rank, inputs)
            made[f"{_PREFIX}.{layer}.self_attn.{name}.lora_B.weight"] = matrix(outputs, rank)
    return made


def write_weights(path: Path, matrices: dict[str, list[list[float]]]) -> None:
    """Writes matrices in safetensors' format, as 32-bit numbers."""
    header: dict[str, Any] = {}
    data = bytearray()
    for name, rows in matrices.items():
        begin = len(data)
        for row in rows:
            data += struct.pack(f"<{len(row)}f", *row)
        header[name] = {"dtype": "F32", "shape": [len(rows), len(rows[0])], "data_offsets": [begin, len(data)]}
    write_file(path, json.dumps(header).encode(), bytes(data))


def write_file(path: Path, header: bytes, data: bytes) -> None:
    """Writes a file in safetensors' format from its parts."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def make_adapter(folder: Path, *, seed: int = 1, rank: int = RANK, hidden: int = HIDDEN, **config: Any) -> Path:
    """Makes an adapter in a new folder, of the built-in model or of one that is `hidden` wide.

    `config` changes its config.
    """
    folder.mkdir(parents=True)
    matrices = weights(seed=seed, rank=rank, inputs=hidden, outputs=hidden)
    write_weights(folder / "adapter_model.safetensors", matrices)
    write_config(folder, rank=rank, **config)
    return folder


def write_config(folder: Path, *, rank: int = RANK, **config: Any) -> None:
    """Writes the config of an adapter. `config` changes its fields."""
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": "qwen-news-classifier",
        "r": rank,
        "lora_alpha": 4 * rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields | config), encoding="utf-8")
