"""The data type of an engine on a CPU, which may compute far slower in the model's own type."""

from __future__ import annotations

import logging
import platform

import torch

from qwen_server.config.settings import BUILTIN, Settings

_log = logging.getLogger(__name__)

_WITHOUT_AVX512 = frozenset({"DEFAULT", "AVX2"})


def computes_bfloat16_slowly() -> bool:
    """Whether this is an x86 CPU without AVX-512, for which torch has no fast bfloat16 code."""
    return (
        platform.machine().lower() in ("x86_64", "amd64") and torch.backends.cpu.get_cpu_capability() in _WITHOUT_AVX512
    )


def data_type_on_cpu(settings: Settings, *, slow: bool) -> str:
    """The value of vLLM's `--dtype`. `auto` makes vLLM take bfloat16 or float16 for any model.

    A built-in model gets float32 on such a CPU. Other models may be large, and float32 doubles
    their memory and halves the tokens in the KV cache, so there the user decides.

    Args:
        slow: whether the CPU computes bfloat16 slowly.
    """
    if settings.dtype != "auto" or not slow:
        return settings.dtype
    if settings.model.startswith(BUILTIN):
        return "float32"
    _log.warning(
        "this CPU has no AVX-512, so it computes the model's data type many times slower than float32; "
        "--dtype=float32 is faster, and takes twice the memory for weights and for each token in the KV cache"
    )
    return settings.dtype
