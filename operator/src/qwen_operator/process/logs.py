"""Logging, as JSON or as text."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final, Literal

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET: Final = ("kopf", "aiohttp.access", "asyncio", "urllib3")


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per line. The fields of `extra` are added."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """One line of text. The fields of `extra` follow as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        return super().format(record) + (f" {extra}" if extra else "")


def set_up_logging(level: str, form: Literal["json", "text"]) -> None:
    """Logs to standard error in one format. Libraries log only warnings and errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    # In a thread kopf warns that it does not handle signals. That is intended.

    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
