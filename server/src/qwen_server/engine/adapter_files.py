"""The files of a LoRA adapter, checked before the engine reads them. Nothing here knows vLLM.

vLLM takes some broken files without an error, such as weights for a smaller model, and an error in
the engine's processes is hard to read. Everything that is read here is bounded.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_HEADER_BYTES: Final = 1 << 24
_MAX_WEIGHT_BYTES: Final = 1 << 33
_MAX_TENSORS: Final = 1 << 17
_MAX_PATTERNS: Final = 1024
_HEADER_LENGTH: Final = 8
_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}
MAX_WEIGHT: Final = 65504.0
"""The largest number in half precision. No trained adapter comes near it."""
_PICKLES: Final = ("adapter_model.bin", "adapter_model.pt")
_PREFIX: Final = "base_model.model."
_BASE_EMBEDDINGS: Final = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
_TENSOR: Final = re.compile(r"(?:base_model\.model\.)?([\w.]+)\.(?:lora_([AB])\.weight|lora_embedding_([AB]))")
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d{1,9})\.")
# vLLM matches them as regular expressions, in the engine core.
_PLAIN_PATTERN: Final = re.compile(r"[\w.]{1,256}")
# Initial values that do not change the model's own weights.
_PLAIN_STARTS: Final = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_UNSUPPORTED: Final = (
    *("use_dora", "lora_bias", "modules_to_save", "alora_invocation_tokens", "layer_replication"),
    *("use_bdlora", "use_qalora"),
)
# vLLM's names for several modules of a layer together, and modules whose shape is not derived.
_OTHER_MODULES: Final = frozenset({"qkv_proj", "gate_up_proj", "gate", "experts", "shared_expert_gate", "score"})
# The models whose layers have the shapes that `ModelShape.of` derives.
_KNOWN_MODELS: Final = ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe")


class BrokenAdapterError(Exception):
    """The adapter cannot be used with this model. The text says why."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """What the files of an adapter say.

    base: the model it was trained for, "" if they do not say. weights: the modules that it has
    weights for, each with the name of one of its tensors.
    """

    base: str
    weights: Mapping[str, str]

    def broken(self, why: str) -> BrokenAdapterError:
        """The error of an adapter that does not fit the model."""
        return BrokenAdapterError(f"{why} (it was trained for {self.base})" if self.base else why)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What an adapter must fit.

    layers: the number of layers.
    modules: inputs and outputs of a layer's modules, by the end of their names, such as
        `self_attn.q_proj`. Empty for a model that is not known here: vLLM alone judges then.
    """

    layers: int
    modules: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """The shape of a model with this config.json (of its text part)."""
        layers = int(config.get("num_hidden_layers") or 0)
        if config.get("model_type") not in _KNOWN_MODELS:
            return cls(layers)
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        outer, inner = heads * head, (config.get("num_key_value_heads") or heads) * head
        modules = {
            "self_attn.q_proj": (hidden, outer),
            "self_attn.k_proj": (hidden, inner),
            "self_attn.v_proj": (hidden, inner),
            "self_attn.o_proj": (outer, hidden),
            "embed_tokens": (config["vocab_size"], hidden),
            "lm_head": (hidden, config["vocab_size"]),
        }
        sizes = {
            "mlp": config.get("intermediate_size"),
            "mlp.experts.*": config.get("moe_intermediate_size"),
            "mlp.shared_expert": config.get("shared_expert_intermediate_size"),
        }
        for place, size in sizes.items():
            if size:
                modules |= {f"{place}.{name}": (hidden, size) for name in ("gate_proj", "up_proj")}
                modules[f"{place}.down_proj"] = (size, hidden)
        return cls(layers, modules)

    def expected(self, module: str) -> tuple[int, int] | None:
        """Inputs and outputs of a module; None if they are not known.

        Raises BrokenAdapterError for a layer or a module that the model does not have.
        """
        if (layer := _LAYER.search(module)) is not None and int(layer[1]) >= self.layers > 0:
            raise BrokenAdapterError(f"it has weights for layer {layer[1]}, but the model has {self.layers} layers")
        if not self.modules:
            return None
        name = re.sub(r"\.experts\.\d+\.", ".experts.*.", module)
        for ending, shape in self.modules.items():
            if name == ending or name.endswith(f".{ending}"):
                return shape
        return None

    def has_one_of(self, names: Iterable[str]) -> bool:
        """Whether one of `names` may name a module, whole or by its end. True if none is known."""
        known = {_last(ending) for ending in self.modules} | _OTHER_MODULES
        return not self.modules or any(_last(name) in known for name in names)


@dataclass(frozen=True, slots=True)
class _Config:
    """rank: of the modules that `ranks` does not name. base: the model it was trained for.

    targets: the names of the modules that it was trained for; empty if it has an expression.
    """

    rank: int
    ranks: Mapping[str, int]
    base: str
    targets: tuple[str, ...]

    def rank_of(self, module: str) -> int:
        """The rank of a module, by PEFT's rule: the first name that ends the module's counts."""
        for name, rank in self.ranks.items():
            if re.fullmatch(rf"(.*\.)?({name})", module):
                return rank
        return self.rank


def check_adapter(folder: Path, shape: ModelShape, *, max_rank: int) -> AdapterFiles:
    """Checks the files of an adapter against the model. It reads at most 17 MiB.

    Raises BrokenAdapterError.
    """
    config = _config(folder, max_rank)
    try:
        return AdapterFiles(config.base, _check_weights(folder, config, shape))
    except BrokenAdapterError as error:
        raise AdapterFiles(config.base, {}).broken(str(error)) from None


def _config(folder: Path, max_rank: int) -> _Config:
    path = folder / CONFIG
    if _size(path) > _MAX_CONFIG_BYTES:
        raise BrokenAdapterError(f"{CONFIG} is larger than {_MAX_CONFIG_BYTES} bytes")
    found = _object(_read(path, 0, _MAX_CONFIG_BYTES), CONFIG)
    _check_features(found)
    alphas = _patterns(found, "alpha_pattern")
    for value in (found.get("lora_alpha"), *alphas.values()):
        if not _is_number(value):
            text = f"lora_alpha must be a number above 0 and at most {MAX_WEIGHT:g}, not {_shown(value)}"
            raise BrokenAdapterError(f"{CONFIG}: {text}")
    ranks = _patterns(found, "rank_pattern")
    for value in (found.get("r"), *ranks.values()):
        if type(value) is not int or value < 1:
            raise BrokenAdapterError(f"{CONFIG}: r, the rank, must be a whole number above 0, not {_shown(value)}")
    highest = max([found["r"], *ranks.values()])
    if highest > max_rank:
        raise BrokenAdapterError(f"its rank is {highest}, and the highest is {max_rank} (set by --max-lora-rank)")
    base = found.get("base_model_name_or_path")
    targets = found["target_modules"]
    names = () if isinstance(targets, str) else tuple(map(str, targets))
    return _Config(found["r"], ranks, _shown(base) if isinstance(base, str) and base else "", names)


def _check_features(found: Mapping[str, Any]) -> None:
    """Refuses what vLLM does not support, and names it."""
    if found.get("peft_type", "LORA") != "LORA":
        raise BrokenAdapterError(f"{CONFIG}: peft_type must be LORA, not {_shown(found['peft_type'])}")
    for name in _UNSUPPORTED:
        if found.get(name):
            raise BrokenAdapterError(f"{CONFIG}: {name} is not supported")
    if found.get("bias", "none") != "none":
        raise BrokenAdapterError(f"{CONFIG}: bias must be none, not {_shown(found['bias'])}")
    start = found.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        text = f"init_lora_weights {_shown(start)} changes the model's own weights: convert the adapter with PEFT"
        raise BrokenAdapterError(f"{CONFIG}: {text}")
    if not isinstance(found.get("target_modules"), list | str):
        raise BrokenAdapterError(f"{CONFIG}: target_modules must be a list or a text")


def _patterns(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    given = config.get(name) or {}
    if not isinstance(given, dict) or len(given) > _MAX_PATTERNS or not all(map(_PLAIN_PATTERN.fullmatch, given)):
        text = "must map at most 1024 names of modules to numbers, and not regular expressions"
        raise BrokenAdapterError(f"{CONFIG}: {name} {text}")
    return given


def _check_weights(folder: Path, config: _Config, shape: ModelShape) -> dict[str, str]:
    """The modules that have weights, each with the name of one of its tensors."""
    path = folder / WEIGHTS
    if not path.exists():
        for name in _PICKLES:
            if (folder / name).exists():
                raise BrokenAdapterError(f"{name} is a pickle, which may run code: save the adapter as {WEIGHTS}")
    weights: dict[str, str] = {}
    ranks: dict[str, dict[str, int]] = {}
    for name, dimensions in _tensors(path):
        if name.endswith(_BASE_EMBEDDINGS):
            continue
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise BrokenAdapterError(f"{WEIGHTS}: {_shown(name)} is not a weight of a LoRA adapter")
        module, side = match[1], match[2] or match[3]
        weights.setdefault(module, name)
        if module.endswith((".experts", ".experts.base_layer")):
            continue  # all experts in one tensor: vLLM checks it
        rank, size = dimensions if side == "A" else dimensions[::-1]
        expected = shape.expected(module)
        if expected is not None and size != expected[side == "B"]:
            what = "inputs" if side == "A" else "outputs"
            text = f"{_shown(module)} has {expected[side == 'B']} {what} in the model, and {size} in the adapter"
            raise BrokenAdapterError(text)
        if rank != config.rank_of(module):
            text = f"{_shown(name)} has the rank {rank}, and {CONFIG} says {config.rank_of(module)}"
            raise BrokenAdapterError(f"{WEIGHTS}: {text}")
        ranks.setdefault(module, {})[side] = rank
    for module, sides in ranks.items():
        if len(sides) == 1:
            raise BrokenAdapterError(f"{WEIGHTS}: {_shown(module)} has lora_{next(iter(sides))} only")
    _check_targets(config.targets, ranks, shape)
    return weights


def _check_targets(targets: tuple[str, ...], modules: Iterable[str], shape: ModelShape) -> None:
    """Refuses names of modules that neither the model nor the weights have.

    vLLM reads only the weights, and PEFT ignores a name that is missing. If all are, the config
    belongs to another adapter or model.
    """
    if not targets or shape.has_one_of(targets) or not {*map(_last, targets)}.isdisjoint(map(_last, modules)):
        return
    names = _shown(", ".join(targets))
    raise BrokenAdapterError(f"{CONFIG}: target_modules names no module of the model: {names}")


def _tensors(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The names and dimensions in the header of a file in safetensors' format."""
    size = _size(path)
    if size > _MAX_WEIGHT_BYTES:
        raise BrokenAdapterError(f"{path.name} has {size} bytes; the limit is {_MAX_WEIGHT_BYTES}")
    length = int.from_bytes(_read(path, 0, _HEADER_LENGTH), "little")
    if size < _HEADER_LENGTH or not 2 <= length <= min(_MAX_HEADER_BYTES, size - _HEADER_LENGTH):
        raise BrokenAdapterError(f"{path.name} is damaged, or not in the format safetensors")
    header = _object(_read(path, _HEADER_LENGTH, length), path.name)
    header.pop("__metadata__", None)
    if not 0 < len(header) <= _MAX_TENSORS:
        raise BrokenAdapterError(f"{path.name} has {len(header)} tensors; it must have 1 to {_MAX_TENSORS}")
    left = size - _HEADER_LENGTH - length
    for name, entry in header.items():
        left -= _bytes_of(entry, f"{path.name}: {_shown(name)}")
        yield name, (entry["shape"][0], entry["shape"][1])
    if left != 0:
        what = "truncated" if left < 0 else "damaged"
        raise BrokenAdapterError(f"{path.name} is {what}: its tensors and its size differ by {abs(left)} bytes")


def _bytes_of(entry: Any, place: str) -> int:
    """The bytes of a matrix of numbers that the header of a file describes."""
    shape: Any = entry.get("shape") if isinstance(entry, dict) else None
    if not (isinstance(shape, list) and [type(side) for side in shape] == [int, int] and min(shape) > 0):
        raise BrokenAdapterError(f"{place} must be a matrix")
    if entry.get("dtype") not in _BYTES:
        raise BrokenAdapterError(f"{place} must have the type {' or '.join(_BYTES)}")
    size = int(shape[0] * shape[1] * _BYTES[entry["dtype"]])
    offsets = entry.get("data_offsets")
    if not (isinstance(offsets, list) and [type(item) for item in offsets] == [int, int]):
        raise BrokenAdapterError(f"{place} has no place in the file")
    if offsets[0] < 0 or offsets[1] - offsets[0] != size:
        raise BrokenAdapterError(f"{place} does not have the size of its place in the file")
    return size


def _size(path: Path) -> int:
    """The size of a file in bytes. Nothing but a file is opened: a pipe would wait for ever."""
    try:
        status = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = f"there is no {path.name} in the folder" if missing else f"{path.name}: {error.strerror}"
        raise BrokenAdapterError(why) from None
    if not stat.S_ISREG(status.st_mode):
        raise BrokenAdapterError(f"{path.name} is not a file")
    return status.st_size


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise BrokenAdapterError(f"{path.name} cannot be read: {error.strerror}") from None


def _object(raw: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise BrokenAdapterError(f"{name} is damaged: it is not valid JSON") from None
    if not isinstance(found, dict):
        raise BrokenAdapterError(f"{name} is damaged: it is not a JSON object")
    return found


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= MAX_WEIGHT


def _shown(value: Any) -> str:
    """A value from a file, short enough for a message."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
