"""Logging of the server and of the engine's processes: one JSON object a line, or text, on standard error."""

from __future__ import annotations

import json
import logging
import logging.config
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

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
# The request that is being served, for every line that is logged meanwhile; empty outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")
# A message of the kubelet's is cut at 4 KiB; the operator keeps 2 KB of it.
_TERMINATION_BYTES = 2048


class JsonFormatter(logging.Formatter):
    """One object a record: time, level, logger, process, message, request id, what `extra` gave, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a single line of JSON."""
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
    """A line of text, with the request's id at its end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The record without its exception."""
        text = super().formatMessage(record)
        current = request_id.get()
        return f"{text} request_id={current}" if current and current not in text else text


def config(log_format: LogFormat, level: str) -> dict[str, Any]:
    """A `dictConfig` in which everything goes to standard error; uvicorn's own lines below warnings are left out."""
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
    """Sets up logging of this process."""
    logging.config.dictConfig(config(log_format, level))


def write_termination_message(path: Path, text: str) -> None:
    """Leaves the cause of the exit where the kubelet reads it. Only into a file that is there: the kubelet makes it."""
    try:
        with path.open("r+b") as file:
            file.truncate()
            file.write(text.encode()[-_TERMINATION_BYTES:])
    except OSError as error:
        logging.getLogger(__name__).debug("no termination message written to %s: %s", path, error)
