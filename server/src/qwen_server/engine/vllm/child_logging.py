"""A logging handler that runs in every engine process.

All of vLLM's processes load the logging configuration. vLLM has no other hook that runs early in
every child. The handler does three things:

- It writes errors to a file, the only place that shows why an engine died.
- It makes each process die with its parent. vLLM's processes do not while they load the model.
- It shields the processes from a Ctrl-C in the terminal, so that accepted requests can finish.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

from qwen_server.engine.processes import die_with_parent
from qwen_server.observe.logs import LogFormat, config

_MAX_BYTES = 4 << 20


class CauseFormatter(logging.Formatter):
    """Formats a record as a line of JSON: time, process ID, message and text of the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as a line of JSON."""
        error = ""
        if record.exc_info and record.exc_info[1] is not None:
            error = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        line = {"time": record.created, "pid": record.process, "message": record.getMessage(), "error": error}
        return json.dumps(line, ensure_ascii=False)


class ChildErrors(logging.FileHandler):
    """Appends errors to `filename`. In any process but `server`, it also ties it to its parent.

    Each process is tied to its direct parent, so that a worker ends with the engine core. The
    server would not see an orphaned worker, but its exit would wait for it.
    """

    def __init__(self, filename: str, server: int) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self.setLevel(logging.ERROR)
        self.setFormatter(CauseFormatter())
        if os.getpid() != server:
            if os.getppid() == server:
                os.setpgid(0, 0)
            # multiprocessing knows the process that started this one, even if it has since ended.
            parent = multiprocessing.parent_process()
            die_with_parent(None if parent is None else parent.pid)

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the error. Empties a file that is too large, so that it never fills the disk."""
        super().emit(record)
        if self.stream is not None and self.stream.tell() > _MAX_BYTES:
            os.truncate(self.baseFilename, 0)


def write_logging_config(folder: Path, log_format: LogFormat, level: str) -> tuple[Path, Path]:
    """Writes the logging configuration for vLLM's processes.

    Returns its path and the path of the file with their errors.
    """
    errors = folder / "engine-errors.jsonl"
    document: dict[str, Any] = config(log_format, level)
    document["handlers"]["errors"] = {
        "()": "qwen_server.engine.vllm.child_logging.ChildErrors",
        "filename": str(errors),
        "server": os.getpid(),
    }
    document["loggers"]["vllm"] = {"handlers": ["stderr", "errors"], "level": level.upper(), "propagate": False}
    path = folder / "logging.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path, errors
