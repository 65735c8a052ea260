"""Computes what a Qwen model needs of GPU memory, and writes the table in docs/models.md.

    python server/tools/model_sizes.py [--check]

The configurations are those that the models' repositories publish as `config.json`, in
model_configs.json. With `--check` it writes nothing and exits with 1 if the table differs. It is a
build tool and no part of the image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
CONFIGS: Final = Path(__file__).with_name("model_configs.json")
PAGE: Final = Path("docs") / "models.md"
BEGIN: Final = "<!-- model sizes: begin -->"
END: Final = "<!-- model sizes: end -->"
# Memory of a GPU in MiB, as nvidia-smi shows it.
GPUS: Final = {"24 GB (L4)": 23034, "48 GB (L40S)": 46068, "80 GB (H100)": 81559, "141 GB (H200)": 143771}
# The default of `engine.gpuMemoryUtilization`, in percent.
UTILIZATION_PERCENT: Final = 90
# What activations, CUDA graphs and libraries take of each GPU: an assumption, not a measurement.
OVERHEAD: Final = 2 * GIB
# bfloat16
BYTES_PER_VALUE: Final = 2
MOST_GPUS: Final = 8


@dataclass(frozen=True)
class Model:
    """The shape of a model, in the terms of its config.json. `experts` is 0 for a dense model."""

    name: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    context: int
    experts: int = 0
    attention_bias: bool = False

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Model:
        """Reads a config.json of Qwen2, Qwen3 or Qwen3-MoE. Raises ValueError for other models."""
        kind = config["model_type"]
        if kind not in {"qwen2", "qwen3", "qwen3_moe"}:
            raise ValueError(f"{name}: the formula does not hold for {kind}")
        experts = config.get("num_experts", 0)
        return cls(
            name=name,
            hidden_size=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]),
            intermediate_size=config["moe_intermediate_size" if experts else "intermediate_size"],
            vocab_size=config["vocab_size"],
            tied=config["tie_word_embeddings"],
            context=config["max_position_embeddings"],
            experts=experts,
            attention_bias=kind == "qwen2",
        )

    @property
    def parameters(self) -> int:
        """The number of weights."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden_size * (queries + keys)
        # Qwen2 has biases for queries, keys and values, Qwen3 a norm for queries and one for keys.
        attention += queries + 2 * keys if self.attention_bias else 2 * self.head_dim
        expert = 3 * self.hidden_size * self.intermediate_size
        feed_forward = self.experts * (expert + self.hidden_size) if self.experts else expert
        norms = 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + feed_forward + norms) + self.hidden_size

    @property
    def weight_bytes(self) -> int:
        """The memory of all weights in bfloat16."""
        return self.parameters * BYTES_PER_VALUE

    @property
    def kv_bytes_per_token(self) -> int:
        """The KV cache of one token in bfloat16, on all GPUs together: keys and values."""
        return self.kv_bytes_per_token_and_gpu(1)

    def kv_bytes_per_token_and_gpu(self, gpus: int) -> int:
        """The part of it on one of several GPUs. A head that all need is on each of them."""
        return 2 * self.layers * max(self.kv_heads // gpus, 1) * self.head_dim * BYTES_PER_VALUE

    def kv_tokens(self, gpus: int, memory: int) -> int:
        """How many tokens fit into the KV cache of GPUs with `memory` bytes each, 0 if none do."""
        free = memory * UTILIZATION_PERCENT // 100 - OVERHEAD - self.weight_bytes // gpus
        return max(free, 0) // self.kv_bytes_per_token_and_gpu(gpus)

    def fewest_gpus(self, memory: int) -> int | None:
        """The smallest tensorParallelSize with which a request may fill the model's context.

        None if more than eight GPUs of one node were needed.
        """
        sizes = [size for size in (1, 2, 4, MOST_GPUS) if self.heads % size == 0]
        return next((size for size in sizes if self.kv_tokens(size, memory) >= self.context), None)


def models() -> list[Model]:
    """The models of the table, in its order."""
    configs: dict[str, dict[str, Any]] = json.loads(CONFIGS.read_text(encoding="utf-8"))
    return [Model.from_config(name, config) for name, config in configs.items()]


def table() -> str:
    """The table of docs/models.md, in Markdown."""
    head = ["model", "parameters", "weights", "KV cache a token", "context", *GPUS]
    lines: list[Iterable[str]] = [head, ["---", *["--:"] * (len(head) - 1)], *(_row(model) for model in models())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(model: Model) -> Iterator[str]:
    yield f"`{model.name}`"
    yield f"{model.parameters / 1e9:.2f} B"
    yield f"{model.weight_bytes / GIB:.1f} GiB"
    yield f"{model.kv_bytes_per_token // KIB} KiB"
    yield f"{model.context:,}"
    for mebibytes in GPUS.values():
        memory = mebibytes * MIB
        gpus = model.fewest_gpus(memory)
        # Rounded down to thousands: the overhead is not known better.
        yield "-" if gpus is None else f"{gpus} · {model.kv_tokens(gpus, memory) // 1000 * 1000:,}"


def with_table(page: str) -> str:
    """The page with the table between its markers. Raises ValueError if they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Writes or checks the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python server/tools/model_sizes.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when the table is out of date")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository")
    given = parser.parse_args(arguments)
    path = given.root / PAGE
    page = path.read_text(encoding="utf-8")
    wanted = with_table(page)
    if not given.check:
        path.write_text(wanted, encoding="utf-8")
    elif page != wanted:
        print(f"{path} is out of date: run `make manifests`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
