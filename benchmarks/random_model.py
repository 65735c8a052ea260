"""`python -m benchmarks.random_model`: writes a model of a published shape with random weights.

A GPU is measured with a model of a usual size, whose weights do not matter. Its tokenizer is the
built-in model's. It says only tokens that are text by themselves, so that each shows at the client
as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.servers import ROOT

CONFIGS = ROOT / "server" / "tools" / "model_configs.json"
TOKENIZER = ROOT / "server" / "models" / "news-classifier"
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_SPREAD = 0.02  # the standard deviation of the weights, as Qwen3's `initializer_range`
_SHARD_BYTES = 4 << 30
_SPECIAL = 3  # the tokenizer's first tokens


def shapes() -> dict[str, dict[str, Any]]:
    """The configurations of the dense Qwen3 models, by name."""
    published: dict[str, dict[str, Any]] = json.loads(CONFIGS.read_text(encoding="utf-8"))
    return {name.split("/")[-1]: shape for name, shape in published.items() if shape["model_type"] == "qwen3"}


def config_of(shape: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """The model's config.json; with `layers`, a model that is less deep."""
    config: dict[str, Any] = json.loads((TOKENIZER / "config.json").read_text(encoding="utf-8"))
    config |= shape
    config["num_hidden_layers"] = layers or shape["num_hidden_layers"]
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    config["max_window_layers"] = config["num_hidden_layers"]
    config["rope_parameters"] = {"rope_theta": 1000000.0, "rope_type": "default"}
    return config


def weights_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of the weights, in the order in which they are made."""
    hidden, middle, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, hidden)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, queries)
        for name in "qk":
            yield f"{layer}.self_attn.{name}_norm.weight", (head,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        for name in ("gate", "up"):
            yield f"{layer}.mlp.{name}_proj.weight", (middle, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, middle)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def words() -> list[int]:
    """The tokens of the tokenizer that are whole characters."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - a second, and `--help` needs none

    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    texts = ((token, tokenizer.decode([token])) for token in range(_SPECIAL, tokenizer.get_vocab_size()))
    return [token for token, text in texts if text.strip() and "\ufffd" not in text]


def write(folder: Path, config: dict[str, Any], device: str, seed: int) -> None:
    """Writes the model to `folder`, in shards of at most 4 GiB. Raises OSError."""
    import torch  # noqa: PLC0415 - five seconds, and `--help` needs none
    from safetensors.torch import save_file  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copy(TOKENIZER / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    torch.manual_seed(seed)
    said = torch.zeros(config["vocab_size"], 1, dtype=torch.bfloat16, device=device)
    said[words()] = 1
    files: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in weights_of(config):
        if len(shape) == 1:
            weight = torch.ones(shape, dtype=torch.bfloat16, device=device)
        else:
            weight = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, _SPREAD)
        if shape[0] == config["vocab_size"]:
            weight *= said  # a token without weights never has the highest logit
        if sum(each.nbytes for each in files[-1].values()) + weight.nbytes > _SHARD_BYTES:
            files.append({})
        files[-1][name] = weight.cpu()
    where: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        path = folder / f"model-{number:05}.safetensors"
        save_file(file, path, {"format": "pt"})
        where |= dict.fromkeys(file, path.name)
    total = sum(each.nbytes for file in files for each in file.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def main(line: list[str]) -> int:
    """The command."""
    command = argparse.ArgumentParser(prog="python -m benchmarks.random_model", description=__doc__)
    command.add_argument("folder", type=Path, help="where to write the model; must not exist")
    command.add_argument("--shape", choices=sorted(shapes()), default="Qwen3-4B", help="(default Qwen3-4B)")
    command.add_argument("--layers", type=int, help="a number of layers other than the shape's")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to draw (default cpu)")
    command.add_argument("--seed", type=int, default=0, help="(default 0)")
    options = command.parse_args(line)
    if options.layers is not None and options.layers < 1:
        command.error("--layers: at least 1")
    if options.folder.exists():
        command.error(f"{options.folder} exists")
    write(options.folder, config_of(shapes()[options.shape], options.layers), options.device, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
