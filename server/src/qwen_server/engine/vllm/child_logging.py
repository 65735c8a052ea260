"""What each process of the engine gets from us, through the logging configuration that vLLM loads in all of them.

vLLM has no other hook that runs early in every child. The handler keeps the errors in a file, because the cause of an
engine's death is told nowhere else; it has each process die with its parent, which vLLM's do not while they load; and
it takes them out of reach of a Ctrl-C in the terminal, so that accepted requests can finish.
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
    """A line of JSON with what is needed to find a cause: time, process id, message, and the exception's own text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON."""
        error = ""
        if record.exc_info and record.exc_info[1] is not None:
            error = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        line = {"time": record.created, "pid": record.process, "message": record.getMessage(), "error": error}
        return json.dumps(line, ensure_ascii=False)


class ChildErrors(logging.FileHandler):
    """Appends errors to `filename`; made in another process than `server`, it also binds that one to its parent.

    Parent by parent, so that a worker ends with the engine core: orphaned, it would be out of the server's sight, and
    the exit would wait for it.
    """

    def __init__(self, filename: str, server: int) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self.setLevel(logging.ERROR)
        self.setFormatter(CauseFormatter())
        if os.getpid() != server:
            if os.getppid() == server:
                os.setpgid(0, 0)
            # multiprocessing knows who started this process, also when that one has ended meanwhile.
            parent = multiprocessing.parent_process()
            die_with_parent(None if parent is None else parent.pid)

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the error; the file is begun anew before it fills the disk of a server that lives long."""
        super().emit(record)
        if self.stream is not None and self.stream.tell() > _MAX_BYTES:
            os.truncate(self.baseFilename, 0)


def write_logging_config(folder: Path, log_format: LogFormat, level: str) -> tuple[Path, Path]:
    """Writes the configuration for vLLM's processes; returns its path and that of the file with their errors."""
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
