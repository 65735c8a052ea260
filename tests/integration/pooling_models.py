"""Tiny models of Qwen3's architecture for the tests of pooling: random, with a real tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from tests.integration.builtin_model import FOLDER, update_json

WIDTH = 64
_LAYERS, _HEADS, _VOCABULARY = 2, 2, 16032
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def random_qwen3(folder: Path, *, words: tuple[str, ...] = (), **config: Any) -> Path:
    """Writes a random model that generates, as Qwen3-Embedding and Qwen3-Reranker are published.

    words: texts that become tokens of their own, such as a reranker's answers.
    """
    folder.mkdir(parents=True)
    for name in _FILES:
        shutil.copy(FOLDER / name, folder / name)
    _add_words(folder / "tokenizer.json", words)
    shutil.copy(FOLDER / "config.json", folder / "config.json")
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "head_dim": WIDTH // _HEADS}
    heads: dict[str, Any] = {"num_attention_heads": _HEADS, "num_key_value_heads": _HEADS, "dtype": "float32"}
    update_json(folder / "config.json", vocab_size=_VOCABULARY, **sizes, **heads, **config)
    save_file(dict(_weights()), folder / "model.safetensors", {"format": "pt"})
    return folder


def _add_words(path: Path, words: tuple[str, ...]) -> None:
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    first = len(tokenizer["model"]["vocab"])
    added = [{"id": first + place, "content": word, **flags} for place, word in enumerate(words)]
    update_json(path, added_tokens=tokenizer["added_tokens"] + added)


def _weights() -> list[tuple[str, Any]]:
    random = numpy.random.default_rng(1)

    def matrix(rows: int, columns: int) -> Any:
        return random.normal(0, 0.2, (rows, columns)).astype(numpy.float32)

    ones = numpy.ones(WIDTH, numpy.float32)
    weights = [("model.embed_tokens.weight", matrix(_VOCABULARY, WIDTH)), ("model.norm.weight", ones)]
    for layer in range(_LAYERS):
        start = f"model.layers.{layer}"
        weights += [(f"{start}.{name}.weight", ones) for name in ("input_layernorm", "post_attention_layernorm")]
        for name in "qkvo":
            weights.append((f"{start}.self_attn.{name}_proj.weight", matrix(WIDTH, WIDTH)))
        for name in "qk":
            weights.append((f"{start}.self_attn.{name}_norm.weight", ones[: WIDTH // _HEADS]))
        weights += [(f"{start}.mlp.{name}_proj.weight", matrix(2 * WIDTH, WIDTH)) for name in ("gate", "up")]
        weights.append((f"{start}.mlp.down_proj.weight", matrix(WIDTH, 2 * WIDTH)))
    return weights
