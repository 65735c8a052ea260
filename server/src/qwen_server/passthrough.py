"""vLLM's own flags after `--`: which of them the server owns and so refuses, with what to use instead."""

from __future__ import annotations

import re
from collections.abc import Collection

# Flags of vLLM that would contradict what the server does itself. A trailing * stands for any ending.
_OWNED = {
    "api-key": "use --api-keys-dir",
    "api-server-count": "the engine runs in this process",
    "asc": "the engine runs in this process",
    "config": "give the flags themselves",
    "data-parallel*": "scale by replicas instead",
    "dp*": "scale by replicas instead",
    "disable-log-stats": "the server's metrics need them",
    "hf-token": "set the environment variable HF_TOKEN, which no log and no list of processes shows",
    "headless": "the engine runs in this process",
    "host": "use the server's own --host",
    "port": "use the server's own --port",
    "uds": "the server listens on --host and --port",
    "shutdown-timeout": "use --drain-timeout",
    "ssl-*": "the server speaks plain HTTP",
    "root-path": "the API's paths are fixed",
    "tp": "use --tensor-parallel-size",
    "pp": "use --pipeline-parallel-size",
    "q": "use --quantization",
}


def why_refused(argument: str, own: Collection[str]) -> str:
    """Why an argument after `--` is refused; empty if it may go to vLLM. `own`: the server's flags, without dashes."""
    match = re.match(r"--?([A-Za-z][\w-]*)", argument)
    if match is None:
        return ""
    name = match[1].replace("_", "-")
    for owned, hint in _OWNED.items():
        if name == owned or (owned.endswith("*") and name.startswith(owned[:-1])):
            return f"is owned by the server: {hint}"
    if name in own:
        return f"is the server's own flag: write --{name} before the `--`"
    return ""
