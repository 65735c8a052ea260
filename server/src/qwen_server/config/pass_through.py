"""vLLM's own flags after `--`: which of them the server owns and so refuses, with what to use instead."""

from __future__ import annotations

import re
from collections.abc import Collection

_HERE = "the engine runs in this process"
_TEMPLATE = "the template is the model's own; requests have chat_template_kwargs"
_LOGS = "use the server's own --log-level, --log-format and --log-prompts"
_NOT_OURS = "it belongs to vLLM's own HTTP server, and nothing like it is here"

# Flags of vLLM that would contradict what the server does itself, and those of vLLM's own HTTP server, which the engine
# does not know. A trailing * stands for any ending.
_OWNED = {
    "allow-credentials": "use --cors-origins",
    "allowed-headers": "use --cors-origins",
    "allowed-methods": "use --cors-origins",
    "allowed-origins": "use --cors-origins",
    "anthropic-*": _NOT_OURS,
    "api-key": "use --api-keys-dir, or the environment variable QWEN_API_KEYS",
    "api-server-count": _HERE,
    "asc": _HERE,
    "chat-template*": _TEMPLATE,
    "cohere-*": _NOT_OURS,
    "config": "give the flags themselves",
    "convert": "the server generates text",
    "data-parallel*": "scale by replicas instead",
    "default-chat-template-kwargs": _TEMPLATE,
    "disable-access-log-for-endpoints": _LOGS,
    "disable-fastapi-docs": "use --protect-docs",
    "disable-log-stats": "the server's metrics need them",
    "disable-uvicorn-access-log": _LOGS,
    "dp*": "scale by replicas instead",
    "enable-auto-tool-choice": "use --tool-call-parser",
    "enable-flash-late-interaction": _NOT_OURS,
    "enable-force-include-usage": "clients send stream_options.include_usage",
    "enable-log-deltas": _LOGS,
    "enable-log-outputs": _LOGS,
    "enable-log-requests": _LOGS,
    "enable-offline-docs": "the pages work offline as they are",
    "enable-per-request-metrics": "answers carry Server-Timing",
    "enable-prompt-tokens-details": _NOT_OURS,
    "enable-request-id-headers": "every answer carries X-Request-Id",
    "enable-scale-out": _NOT_OURS,
    "enable-server-load-tracking": "the server counts what it serves: /api/v1/metrics",
    "enable-ssl-refresh": "the server speaks plain HTTP",
    "enable-tokenizer-info-endpoint": _NOT_OURS,
    "exclude-tools-when-tool-choice-none": _NOT_OURS,
    "fingerprint-*": _NOT_OURS,
    "grpc*": "the server speaks plain HTTP",
    "h11-*": "the server bounds headers at 64 KiB, and the time for them by --header-timeout",
    "headless": _HERE,
    "hf-token": "set the environment variable HF_TOKEN, which no log and no list of processes shows",
    "host": "use the server's own --host",
    "log-config-file": _LOGS,
    "log-error-stack": _LOGS,
    "logging-config": _LOGS,
    "lora-modules": "the server serves one model",
    "max-log-len": _LOGS,
    "max-num-queued-*": "use --max-queue-size",
    "middleware": "put a proxy in front of the server",
    "port": "use the server's own --port",
    "pp": "use --pipeline-parallel-size",
    "q": "use --quantization",
    "reasoning-effort-map": _NOT_OURS,
    "response-role": _NOT_OURS,
    "return-tokens-as-token-ids": "requests have a parameter of this name",
    "root-path": "the API's paths are fixed",
    "runner": "the server generates text",
    "shutdown-timeout": "use --drain-timeout",
    "skip-tokenizer-init": "the server renders and tokenizes what it gets",
    "sse-keep-alive-interval": "streams say that work goes on every 10 s",
    "ssl-*": "the server speaks plain HTTP",
    "tokens-only": _NOT_OURS,
    "tool-*": "use --tool-call-parser",
    "tp": "use --tensor-parallel-size",
    "trust-request-*": "requests may bring no template, and no settings of the preprocessing",
    "uds": "the server listens on --host and --port",
    "uvicorn-log-level": _LOGS,
    "worker-extension-cls": "the server reads the GPU's memory by it",
}
_SHORT_NAME = 3


def why_refused(argument: str, own: Collection[str]) -> str:
    """Why an argument after `--` is refused; empty if it may go to vLLM. `own`: the server's flags, without dashes."""
    match = re.match(r"(--?)([A-Za-z][\w-]*)", argument)
    if match is None:
        return ""
    name = match[2].replace("_", "-")
    short = match[1] == "-"
    name = name if short else name.removeprefix("no-")
    for owned, hint in _OWNED.items():
        if _means(name, owned, short=short) or _means(_opposite(name), owned, short=short):
            return f"is owned by the server: {hint}"
    if name in own:
        return f"is the server's own flag: write --{name} before the `--`"
    return ""


def _opposite(name: str) -> str:
    """The flag that turns off what `name` turns on, or the other way round, as vLLM names them since 0.33."""
    verb, _, rest = name.partition("-")
    opposite = {"enable": "disable", "disable": "enable"}.get(verb)
    return f"{opposite}-{rest}" if opposite else name


def _means(name: str, owned: str, *, short: bool) -> bool:
    """Whether `name` is the flag `owned`; after one dash argparse also takes its beginning for it, and `-qVALUE`."""
    if owned.endswith("*") and name.startswith(owned[:-1]):
        return True
    if short and len(owned) <= _SHORT_NAME:
        return owned.removesuffix("*").startswith(name) or (len(owned) == 1 and name.startswith(owned))
    return name == owned
