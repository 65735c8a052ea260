"""vLLM's flags that the server refuses after `--`, and what to use instead."""

from __future__ import annotations

import re
from collections.abc import Collection

_BEFORE = " before the `--`"
_HERE = "the engine runs in this process"
_KEYS = "use --api-keys-dir, or the environment variable QWEN_API_KEYS"
_TASK = "use --task, such as --task=embed"
_TEMPLATE = "the server chooses it; requests can set chat_template_kwargs"
_LOGS = "use --log-level, --log-format and --log-prompts" + _BEFORE
_NOT_OURS = "it is a flag of vLLM's own HTTP server and has no counterpart here"

# Flags that would conflict with what the server does itself, and flags of vLLM's own HTTP server,
# which the engine does not have. A trailing * matches any ending.
_OWNED = {
    "allow-credentials": "use --cors-origins",
    "allowed-headers": "use --cors-origins",
    "allowed-media-domains": "use --image-domains",
    "allowed-methods": "use --cors-origins",
    "allowed-origins": "use --cors-origins",
    "anthropic-*": _NOT_OURS,
    "api-key": _KEYS,
    "api-keys": _KEYS,
    "api-server-count": _HERE,
    "asc": _HERE,
    "chat-template-*": _TEMPLATE,
    "cohere-*": _NOT_OURS,
    "config": "write the flags themselves",
    "convert": _TASK,
    "data-parallel*": "use more replicas instead",
    "default-chat-template-kwargs": _TEMPLATE,
    "disable-access-log-for-endpoints": _LOGS,
    "disable-fastapi-docs": "use --protect-docs",
    "disable-log-stats": "the server's metrics need them",
    "disable-uvicorn-access-log": _LOGS,
    "dp*": "use more replicas instead",
    "enable-auto-tool-choice": "it needs no flag, because --tool-call-parser is auto by default",
    "enable-flash-late-interaction": _NOT_OURS,
    "enable-force-include-usage": "requests can set stream_options.include_usage",
    "enable-log-deltas": _LOGS,
    "enable-log-outputs": _LOGS,
    "enable-log-requests": _LOGS,
    "enable-offline-docs": "/docs and /redoc always work offline",
    "enable-per-request-metrics": "every answer has the header Server-Timing",
    "enable-request-id-headers": "every answer has the header X-Request-Id",
    "enable-scale-out": _NOT_OURS,
    "enable-server-load-tracking": "see the server's own metrics at /api/v1/metrics",
    "enable-ssl-refresh": "the server speaks plain HTTP",
    "exclude-tools-when-tool-choice-none": _NOT_OURS,
    "fingerprint-*": _NOT_OURS,
    "grpc*": "the server speaks plain HTTP",
    "h11-*": "headers are limited to 64 KiB and to --header-timeout",
    "headless": _HERE,
    "hf-token": "set the environment variable HF_TOKEN, which neither logs nor process lists show",
    "host": f"write --host{_BEFORE}",
    "log-config-file": _LOGS,
    "log-error-stack": _LOGS,
    "logging-config": _LOGS,
    "max-log-len": _LOGS,
    "max-num-queued-*": "use --max-queue-size",
    "middleware": "put a proxy in front of the server",
    "port": f"write --port{_BEFORE}",
    "pp": "use --pipeline-parallel-size",
    "q": "use --quantization",
    "reasoning-effort-map": _NOT_OURS,
    "response-role": _NOT_OURS,
    "return-tokens-as-token-ids": "requests have a parameter with this name",
    "root-path": "the API's paths are fixed",
    "runner": _TASK,
    "shutdown-timeout": "use --drain-timeout",
    "skip-tokenizer-init": "the server needs the tokenizer",
    "sse-keep-alive-interval": "a stream sends a comment every 10 s until its first event",
    "ssl-*": "the server speaks plain HTTP",
    "tokens-only": _NOT_OURS,
    "tool-*": "use --tool-call-parser",
    "tp": "use --tensor-parallel-size",
    "trust-request-*": "requests cannot set a chat template or preprocessing options",
    "uds": "the server listens on --host and --port",
    "uvicorn-log-level": _LOGS,
    "worker-extension-cls": "the server needs it to read the GPU memory and the model's modules",
}
_SHORT_NAME = 3
_FLAG = re.compile(r"(--?)([A-Za-z][\w-]*)")


def why_refused(argument: str, own: Collection[str]) -> str:
    """Returns why an argument after `--` is refused; empty if it may go to vLLM.

    `own` holds the server's flags, without the leading dashes.
    """
    if hint := _hint(argument):
        return f"is not allowed after `--`: {hint}"
    name, _ = _name(argument)
    if name in own:
        return f"is a flag of the server: write --{name}{_BEFORE}"
    return ""


def instead_of(argument: str) -> str:
    """Returns what to use instead of a flag that is refused; empty for any other argument."""
    return _hint(argument).removesuffix(_BEFORE)


def _hint(argument: str) -> str:
    name, short = _name(argument)
    for owned, hint in _OWNED.items():
        if _means(name, owned, short=short) or _means(_opposite(name), owned, short=short):
            return hint
    return ""


def _name(argument: str) -> tuple[str, bool]:
    """The name of a flag, and whether one dash stands before it; "" for what is no flag."""
    match = _FLAG.match(argument)
    if match is None:
        return "", False
    name, short = match[2].replace("_", "-"), match[1] == "-"
    return (name if short else name.removeprefix("no-")), short


def _opposite(name: str) -> str:
    """Returns the opposite of an enable or disable flag, which vLLM has since 0.33."""
    verb, _, rest = name.partition("-")
    opposite = {"enable": "disable", "disable": "enable"}.get(verb)
    return f"{opposite}-{rest}" if opposite else name


def _means(name: str, owned: str, *, short: bool) -> bool:
    """Returns whether `name` means the flag `owned`.

    After a single dash, argparse also accepts prefixes of a flag, and forms such as `-qVALUE`.
    """
    if owned.endswith("*") and name.startswith(owned[:-1]):
        return True
    if short and len(owned) <= _SHORT_NAME:
        return owned.removesuffix("*").startswith(name) or (len(owned) == 1 and name.startswith(owned))
    return name == owned
