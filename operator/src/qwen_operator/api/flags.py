"""Flags and variables of the server that a QwenService must not pass.

The operator sets some of them itself, and the server refuses others. A test compares these tables
with the server.
"""

from __future__ import annotations

from typing import Final

from qwen_operator.api.base import ValidationRule

# The server's own flags belong before the `--`, where only the operator writes.
SERVER_FLAGS: Final = (
    "adapters-file", "admin-api-keys-dir", "alerts-file", "api-keys", "api-keys-dir", "body-timeout", "cors-origins",
    "default-max-tokens", "default-temperature", "device", "drain-timeout", "dtype", "enable-lora", "enforce-eager",
    "gpu-memory-utilization", "grammar-timeout", "header-timeout", "host", "keep-alive-timeout", "kv-cache-gib",
    "log-prompts", "lora-dirs", "lora-modules", "max-body-bytes", "max-choices", "max-concurrent-requests",
    "max-cpu-loras", "max-grammar-branches", "max-grammar-depth", "max-grammar-repeats", "max-grammar-size",
    "max-grammar-values", "max-lora-rank", "max-loras", "max-model-len", "max-prompts", "max-queue-size",
    "max-sequences", "max-stops", "max-temperature", "max-tokens-limit", "metrics-tokens-dir", "min-temperature",
    "model", "model-aliases", "models-dir", "on-exceed", "otlp-traces-endpoint", "patches", "pipeline-parallel-size",
    "podinfo-dir", "port", "protect-docs", "protect-metrics", "quantization", "queue-timeout", "rate-limit",
    "reasoning-parser", "request-timeout", "revision", "served-model-name", "tensor-parallel-size", "termination-log",
    "tool-call-parser",
)  # fmt: skip
# vLLM's flags that the server refuses, because it does these things itself or does not have them.
REFUSED_FLAGS: Final = (
    "allow-credentials", "allowed-headers", "allowed-methods", "allowed-origins", "api-key", "api-server-count", "asc",
    "config", "convert", "default-chat-template-kwargs", "disable-access-log-for-endpoints", "disable-fastapi-docs",
    "disable-log-stats", "disable-uvicorn-access-log", "enable-auto-tool-choice", "enable-flash-late-interaction",
    "enable-force-include-usage", "enable-log-deltas", "enable-log-outputs", "enable-log-requests",
    "enable-offline-docs", "enable-per-request-metrics", "enable-prompt-tokens-details", "enable-request-id-headers",
    "enable-scale-out", "enable-server-load-tracking", "enable-ssl-refresh", "enable-tokenizer-info-endpoint",
    "exclude-tools-when-tool-choice-none", "headless", "hf-token", "log-config-file", "log-error-stack",
    "logging-config", "max-log-len", "middleware", "pp", "q", "reasoning-effort-map", "response-role",
    "return-tokens-as-token-ids", "root-path", "runner", "shutdown-timeout", "skip-tokenizer-init",
    "sse-keep-alive-interval", "tokens-only", "tp", "uds", "uvicorn-log-level", "worker-extension-cls",
)  # fmt: skip
REFUSED_BEGINNINGS: Final = (
    "anthropic-", "chat-template", "cohere-", "data-parallel", "dp", "fingerprint-", "grpc", "h11-", "max-num-queued-",
    "ssl-", "tool-", "trust-request-",
)  # fmt: skip
# After a single dash argparse also takes the beginning of a flag.
_SHORT: Final = ("-a", "-as", "-asc", "-d", "-p", "-pp", "-t", "-tp", "-u", "-ud", "-uds")
_SHORT_BEGINNINGS: Final = ("-q", "-dp")

# Settings that the container's args always give, so that the variable would be ignored, and those
# that the Service, the probes and the operator's polls rely on.
OWNED_SETTINGS: Final = (
    "alerts-file", "default-max-tokens", "default-temperature", "device", "drain-timeout", "dtype",
    "gpu-memory-utilization", "host", "kv-cache-gib", "max-concurrent-requests", "max-queue-size", "max-stops",
    "max-temperature", "max-tokens-limit", "metrics-tokens-dir", "min-temperature", "model", "on-exceed",
    "pipeline-parallel-size", "podinfo-dir", "port", "protect-metrics", "queue-timeout", "served-model-name",
    "tensor-parallel-size",
)  # fmt: skip
OWNED_VARIABLES: Final = tuple(f"QWEN_{name.upper().replace('-', '_')}" for name in OWNED_SETTINGS)


def _forms(name: str) -> list[str]:
    """A flag, its negation and, as vLLM has since 0.33, its opposite."""
    verb, _, rest = name.partition("-")
    opposite = {"enable": "disable", "disable": "enable"}.get(verb)
    names = [name, f"{opposite}-{rest}"] if opposite else [name]
    return [f"--{prefix}{each}" for each in names for prefix in ("", "no-")]


_NAMES: Final = [form for name in SERVER_FLAGS + REFUSED_FLAGS for form in _forms(name)] + list(_SHORT)
_BEGINNINGS: Final = [form for name in REFUSED_BEGINNINGS for form in _forms(name)] + list(_SHORT_BEGINNINGS)


def may_pass(argument: str) -> bool:
    """Whether an item of `engine.extraArgs` may go to vLLM."""
    name = argument.split("=", maxsplit=1)[0].replace("_", "-")
    return name not in _NAMES and not name.startswith(tuple(_BEGINNINGS))


# The list with one item names a value, which makes the rule cheaper.
FLAG_RULE: Final = ValidationRule(
    "[self.split('=')[0].replace('_', '-')].all(name, "
    f"!(name in {_NAMES}) && !{_BEGINNINGS}.exists(beginning, name.startsWith(beginning)))",
    "must not be a flag that the operator or the server sets: use the field of the spec, or a variable in engine.env",
    may_pass,
)
VARIABLE_RULE: Final = ValidationRule(
    f"!(self.name.upperAscii() in {list(OWNED_VARIABLES)})",
    "name must not be a variable of a setting that the operator passes as a flag, or that the probes and the "
    "operator rely on",
    lambda variable: variable.name.upper() not in OWNED_VARIABLES,
    "name",
)
