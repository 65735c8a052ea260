"""Whether a model fits into the memory, before anything is loaded.

The need is a lower bound and the memory an upper one, so that a model that could run is never
refused. Where a number is not known, nothing is refused, and vLLM decides after loading.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen_server.config.settings import Settings
from qwen_server.engine.base import EngineError
from qwen_server.observe.memory import container_memory, gpu_memory
from qwen_server.observe.model_files import model_folder, read_config, read_weights

_log = logging.getLogger(__name__)

_GIB = 1 << 30
PROGRAMS_BYTES = 3 * _GIB // 2  # of the server and the engine on a CPU, measured with the built-in model
# The models whose layers all have the same KV cache, which grows with each token.
_UNIFORM = frozenset({"qwen2", "qwen3", "qwen2_moe", "qwen3_moe"})
_SIZES = {"float32": 4, "float": 4}
_BATCH = 2048  # vLLM's default lets it compute at least so many tokens of a prompt at a time
_BATCH_FLAG = "--max-num-batched-tokens="
_STEP = 128  # suggestions for --max-model-len are multiples of it
_MOST_GPUS = 16
# The flags of vLLM that leave the need for memory as it is, or make it larger. With any other flag
# it is not known.
_HARMLESS = (
    *("async-scheduling", "attention-backend", "enable-chunked-prefill", "enable-prefix-caching"),
    *("generation-config", "max-logprobs", "max-num-seqs"),
    *("scheduling-policy", "seed", "tokenizer", "trust-remote-code"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model needs. All sizes are in bytes, of all devices together.

    kv_token: the KV cache of one token for one KV head in all layers, keys and values; 0 if it is
        not known.
    activation_token: what computing one token takes at least. batch: how many are computed at a
        time.
    heads: how many the layers have; the number of GPUs must divide it.
    """

    weights: int
    kv_token: int
    kv_heads: int
    heads: int
    activation_token: int
    batch: int = _BATCH


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is to be served. `length` is the most tokens of a request.

    kv_cache: the size of the KV cache in bytes, if it is given and not what is left.
    """

    length: int
    tensor: int = 1
    pipeline: int = 1
    kv_cache: int | None = None


def kv_bytes(shape: Shape, plan: Plan, tokens: int) -> int:
    """Returns the KV cache of so many tokens on one device. A head that all need is on each."""
    return shape.kv_token * max(shape.kv_heads // plan.tensor, 1) * tokens // plan.pipeline


def base_bytes(shape: Shape, plan: Plan) -> int:
    """Returns what one device needs at least besides its KV cache: weights and activations."""
    weights = shape.weights // (plan.tensor * plan.pipeline)
    return weights + shape.activation_token * min(plan.length, shape.batch) // plan.tensor


def fits(shape: Shape, plan: Plan, memory: int) -> bool:
    """Whether weights, activations and the KV cache of one full request fit into each device."""
    request = kv_bytes(shape, plan, plan.length)
    if plan.kv_cache is None:
        return base_bytes(shape, plan) + request <= memory
    return request <= plan.kv_cache and base_bytes(shape, plan) + plan.kv_cache <= memory


def longest(shape: Shape, plan: Plan, memory: int) -> int | None:
    """Returns the longest request that fits, a multiple of 128 tokens below `plan.length`.

    None if not even 128 tokens fit, or if another length changes nothing.
    """
    low, high = 0, (plan.length - 1) // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        if fits(shape, replace(plan, length=middle * _STEP), memory):
            low = middle
        else:
            high = middle - 1
    return low * _STEP or None


def fewest_gpus(shape: Shape, plan: Plan, memory: int) -> int | None:
    """Returns the smallest tensor parallel size above that of the plan with which it fits.

    None if it does not fit on 16 GPUs.
    """
    for size in (2, 4, 8, _MOST_GPUS):
        if size > plan.tensor and shape.heads % size == 0 and fits(shape, replace(plan, tensor=size), memory):
            return size
    return None


def trouble_on_gpus(shape: Shape, plan: Plan, total: int, share: float) -> str | None:
    """Returns why the model does not fit on the GPUs, and what would fit; None if it does.

    Args:
        total: the memory of each GPU.
        share: how much of it the engine may use, from 0 to 1.
    """
    memory = int(total * share)
    if fits(shape, plan, memory):
        return None
    gpus = plan.tensor * plan.pipeline
    need = base_bytes(shape, plan) + kv_bytes(shape, plan, plan.length)
    parts = f"{_gib(base_bytes(shape, plan))} of weights and activations"
    if shape.kv_token:
        parts += f" and {_gib(kv_bytes(shape, plan, plan.length))} of KV cache for a request of {plan.length} tokens"
    where = "the GPU" if gpus == 1 else f"each of the {gpus} GPUs"
    ways = []
    if (length := longest(shape, plan, memory)) is not None:
        ways.append(f"--max-model-len={length}")
    if (size := fewest_gpus(shape, plan, memory)) is not None:
        ways.append(f"--tensor-parallel-size={size}")
    if need <= 0.95 * total:
        ways.append(f"--gpu-memory-utilization={need / total + 0.005:.2f}")
    return (
        f"it does not fit: it needs {parts}, and {where} gives it {_gib(memory)} ({share:.0%} of {_gib(total)}). "
        f"It could fit with {' or '.join(ways) if ways else 'larger GPUs or a quantized model'}"
    )


def trouble_on_cpu(shape: Shape, plan: Plan, memory: int | None) -> str | None:
    """Returns why the model does not fit into the container's memory, and what would; else None."""
    cache = plan.kv_cache or 0
    request = kv_bytes(shape, plan, plan.length)
    ways = []
    if request > cache:
        if (length := longest(shape, plan, base_bytes(shape, plan) + cache)) is not None:
            ways.append(f"--max-model-len={length}")
        ways.append(f"--kv-cache-gib={_up(request)}")
        return (
            f"it does not fit: a request of {plan.length} tokens needs {_gib(request)} of KV cache, which has "
            f"{_gib(cache)}. It fits with {' or '.join(ways)}"
        )
    need = base_bytes(shape, plan) + cache
    if memory is None or need <= memory:
        return None
    if base_bytes(shape, plan) + request <= memory:
        ways.append(f"--kv-cache-gib={max(1, -(-100 * request // _GIB)) / 100:.2f}")
    ways.append(f"a memory limit of {_up(need + PROGRAMS_BYTES)} GiB, of which the programs take about 1.5 GiB")
    return (
        f"it does not fit: it needs {_gib(base_bytes(shape, plan))} of weights and activations and {_gib(cache)} of KV "
        f"cache, and the container may use {_gib(memory)}. It could fit with {' or '.join(ways)}"
    )


def shape_of(config: Mapping[str, Any], settings: Settings) -> tuple[Shape, int] | None:
    """Returns what a model needs, without its weights, and its own context; None if not known."""
    kind, size = config.get("model_type"), _SIZES.get(settings.dtype, 2)
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    try:
        hidden, layers, heads = (int(config[name]) for name in names)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head = int(config.get("head_dim") or hidden // heads)
        context = int(config["max_position_embeddings"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if min(hidden, layers, heads, kv_heads, head, context) <= 0:
        return None
    kinds = config.get("layer_types") or ()
    uniform = kind in _UNIFORM and not config.get("use_sliding_window") and set(kinds) <= {"full_attention"}
    kv_token = 2 * layers * head * size if uniform else 0
    batch = [int(flag.removeprefix(_BATCH_FLAG)) for flag in settings.pass_through if _is_batch(flag)]
    return Shape(0, kv_token, kv_heads, heads, 2 * hidden * size, min([_BATCH, *batch])), context


def _is_batch(flag: str) -> bool:
    value = flag.removeprefix(_BATCH_FLAG)
    return flag.startswith(_BATCH_FLAG) and value.isascii() and value.isdigit()


def _is_known(flag: str) -> bool:
    """Whether the need for memory with this flag of vLLM is known."""
    name, _, value = flag.removeprefix("--").removeprefix("no-").partition("=")
    return flag.startswith("--") and (_is_batch(flag) or (name in _HARMLESS and not value.startswith("-")))


def check_fit(settings: Settings, device: Literal["cuda", "cpu"]) -> None:
    """Raises EngineError if the model cannot fit. Reads only local files, for at most seconds."""
    plan = Plan(0, settings.tensor_parallel_size, settings.pipeline_parallel_size)
    several = plan.tensor * plan.pipeline > 1
    if (device == "cpu" and several) or not all(map(_is_known, settings.pass_through)):
        return
    folder = model_folder(settings.model_path, settings.revision, os.environ)
    config = read_config(folder) if folder is not None else None
    found = shape_of(config, settings) if config is not None else None
    if folder is None or config is None or found is None:
        return
    shape, context = found
    quantized = "quantization_config" in config or "compression_config" in config
    # Without text to generate, vLLM does not load the output layer.
    tied = settings.task != "generate" or bool(config.get("tie_word_embeddings"))
    weights = read_weights(folder, tied=tied, quantized=quantized)
    if weights is None:
        return
    size: float = _SIZES.get(settings.dtype, 2)
    if settings.quantization is not None and not quantized:
        # vLLM quantizes while it loads. Some layers stay as they are, so this is a lower bound.
        size = 1 if "fp8" in settings.quantization else 0.5
    shape = replace(shape, weights=int(weights.values * size) + weights.other_bytes)
    plan = replace(plan, length=settings.max_model_len or context)
    if device == "cpu":
        plan = replace(plan, kv_cache=int(settings.kv_cache_gib * _GIB))
        trouble = trouble_on_cpu(shape, plan, container_memory())
    else:
        total = gpu_memory(plan.tensor * plan.pipeline)
        trouble = None if total is None else trouble_on_gpus(shape, plan, total, settings.gpu_memory_utilization)
    if trouble is not None:
        raise EngineError(trouble)
    _log.debug("the model may fit: %s, %s", shape, plan)


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _up(size: int) -> float:
    """The size in GiB, rounded up to a quarter."""
    return -(-4 * size // _GIB) / 4
