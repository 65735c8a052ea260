"""Logging to stderr, for the server and the engine's processes: JSON lines or text."""

from __future__ import annotations

import json
import logging
import logging.config
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from qwen_server.config.termination_log import KUBELETS_LOG

LogFormat = Literal["json", "text"]

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "vllm_process_name",
    "fileinfo",
    "color_message",
}
# The ID of the current request, which every log line carries; empty outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")
# The kubelet truncates the message at 4 KiB, and the operator keeps 2 KB of it.
_TERMINATION_BYTES = 2048


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object.

    Its fields are time, level, logger, process, message, request_id, the `extra` fields, and
    exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as a single line of JSON."""
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        process = getattr(record, "vllm_process_name", record.processName)
        if process and process != "MainProcess":
            line["process"] = process
        if current := request_id.get():
            line["request_id"] = current
        line.update({key: value for key, value in record.__dict__.items() if key not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text with the request ID at its end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Returns the line without the exception."""
        text = super().formatMessage(record)
        current = request_id.get()
        return f"{text} request_id={current}" if current and current not in text else text


def config(log_format: LogFormat, level: str) -> dict[str, Any]:
    """Returns a `dictConfig` that sends everything to stderr.

    uvicorn and httpx log warnings and errors only.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {"()": "qwen_server.observe.logs.JsonFormatter"},
            "text": {"()": "qwen_server.observe.logs.TextFormatter", "fmt": _TEXT},
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": log_format},
        },
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {
            "uvicorn": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
        },
    }


def configure(log_format: LogFormat, level: str) -> None:
    """Sets up logging in this process."""
    logging.config.dictConfig(config(log_format, level))


def write_termination_message(path: Path, text: str) -> None:
    """Writes the cause of the exit where the kubelet or somebody else reads it.

    The kubelet creates its file. Outside of Kubernetes there is none, and nothing is written, but
    any other file is created.
    """
    kept = path == KUBELETS_LOG or path.exists()
    try:
        with path.open("r+b" if kept else "xb") as file:
            file.truncate()
            file.write(text.encode()[-_TERMINATION_BYTES:])
    except OSError as error:
        logging.getLogger(__name__).debug("cannot write the termination message to %s: %s", path, error)
