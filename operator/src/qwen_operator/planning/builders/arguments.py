"""The server's command line."""

from __future__ import annotations

import math
from typing import Final

from qwen_operator.api import QwenServiceSpec, format_duration, parse_quantity
from qwen_operator.planning.builders.adapters import ADAPTERS_KEY
from qwen_operator.planning.builders.metricstokens import FOLDER as METRICS_TOKENS_FOLDER
from qwen_operator.planning.builders.source import resolve_source

ALERTS_FOLDER: Final = "/etc/qwen/alerts"
ADMIN_KEYS_FOLDER: Final = "/etc/qwen/admin-api-keys"
API_KEYS_FOLDER: Final = "/etc/qwen/api-keys"
PODINFO_FOLDER: Final = "/etc/podinfo"
_SERVER_DEFAULT_TEMPERATURE: Final = 0.7
_GIB: Final = 1024**3


def server_arguments(spec: QwenServiceSpec) -> list[str]:
    """The container's args: the server's own flags, then vLLM's after `--`."""
    own = [*_model_flags(spec), *_engine_flags(spec), *_lora_flags(spec), *_limit_flags(spec), *_wiring_flags(spec)]
    arguments = [f"--{name}={value}" if value is not True else f"--{name}" for name, value in own if value is not None]
    return [*arguments, "--", *spec.engine.extra_args] if spec.engine.extra_args else arguments


Flag = tuple[str, object]


def _model_flags(spec: QwenServiceSpec) -> list[Flag]:
    source = resolve_source(spec)
    return [
        ("model", source.model),
        ("served-model-name", spec.model.served_name or source.default_name),
        ("model-aliases", ",".join(spec.model.aliases) or None),
        ("revision", source.revision),
    ]


def _engine_flags(spec: QwenServiceSpec) -> list[Flag]:
    engine = spec.engine
    flags: list[Flag] = [
        ("device", engine.device),
        ("tensor-parallel-size", engine.tensor_parallel_size),
        ("pipeline-parallel-size", engine.pipeline_parallel_size),
        ("max-model-len", engine.max_model_len),
        ("dtype", engine.dtype),
        ("quantization", engine.quantization),
    ]
    if engine.device == "cpu":
        # By default vLLM would use 92 % of the memory for its KV cache. The image has no compiler.
        return [*flags, ("kv-cache-gib", f"{kv_cache_gib(spec):g}"), ("enforce-eager", True)]
    return [*flags, ("gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}")]


def _lora_flags(spec: QwenServiceSpec) -> list[Flag]:
    """The adapters themselves are no flags: the server follows their file."""
    room = spec.lora_room
    if room is None:
        return []
    return [
        ("enable-lora", True),
        ("max-cpu-loras", room.max_adapters),
        ("max-loras", room.max_at_once),
        ("max-lora-rank", room.max_rank),
        ("adapters-file", f"{ALERTS_FOLDER}/{ADAPTERS_KEY}"),
    ]


def kv_cache_gib(spec: QwenServiceSpec) -> float:
    """The KV cache on a CPU: a sixth of the memory limit in steps of 0.25 GiB, else 1 GiB."""

    limit = spec.resources.limits.get("memory")
    if limit is None:
        return 1.0
    return max(1, int(parse_quantity(limit) / _GIB / 6 * 4)) / 4


def cpu_threads(spec: QwenServiceSpec) -> int:
    """The CPU limit, rounded up; 1 without a limit, so that pods on one node do not compete."""

    limit = spec.resources.limits.get("cpu")
    return 1 if limit is None else max(1, math.ceil(parse_quantity(limit)))


def _limit_flags(spec: QwenServiceSpec) -> list[Flag]:
    limits = spec.limits
    temperature = min(max(_SERVER_DEFAULT_TEMPERATURE, limits.min_temperature), limits.max_temperature)
    return [
        ("max-concurrent-requests", limits.max_concurrent_requests),
        ("max-queue-size", limits.max_queue_size),
        ("queue-timeout", format_duration(limits.queue_timeout)),
        ("default-max-tokens", limits.default_max_tokens),
        ("max-tokens-limit", limits.max_tokens),
        ("on-exceed", limits.on_exceed.lower()),
        ("max-stops", limits.max_stops),
        ("default-temperature", f"{temperature:g}"),
        ("min-temperature", f"{limits.min_temperature:g}"),
        ("max-temperature", f"{limits.max_temperature:g}"),
        ("rate-limit", limits.rate_limit),
    ]


def _wiring_flags(spec: QwenServiceSpec) -> list[Flag]:
    return [
        ("api-keys-dir", API_KEYS_FOLDER if spec.auth.api_key_secret_ref else None),
        ("admin-api-keys-dir", ADMIN_KEYS_FOLDER if spec.auth.admin_key_secret_ref else None),
        ("metrics-tokens-dir", METRICS_TOKENS_FOLDER if spec.auth.metrics_token_secret_ref else None),
        ("drain-timeout", format_duration(spec.drain.timeout)),
        ("alerts-file", f"{ALERTS_FOLDER}/alerts.json"),
        ("podinfo-dir", PODINFO_FOLDER),
    ]
