"""The kinds of values that settings take besides numbers and text: durations, rates, counts that may be `auto`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}


class ConfigurationError(Exception):
    """The configuration cannot be used; the text names the flag and says what is wrong."""


class RateLimit(NamedTuple):
    """At most `requests` in `seconds`; `text` is how the user wrote it."""

    requests: int
    seconds: float
    text: str


def parse_duration(value: object) -> float:
    """Seconds of a duration such as 500ms, 30s, 5m or 1h (or 1m30s); plain numbers are seconds. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m, 1h or 500ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_rate_limit(value: object) -> object:
    """A RateLimit of text such as 600/minute. Raises ValueError."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([1-9]\d*)\s*/\s*(second|minute|hour)", value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a rate such as 10/second, 600/minute or 5000/hour")
    return RateLimit(int(match[1]), _PERIODS[match[2]], f"{match[1]}/{match[2]}")


def _parse_count(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+", value.strip()):
        return int(value)
    raise ValueError(f"{value!r} is neither a whole number nor auto")


def parse_collector(value: object) -> object:
    """The URL of an OpenTelemetry collector: http, https or grpc, with a host. Raises ValueError."""
    text = str(value).strip()
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https", "grpc") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if value is not None and not usable:
        raise ValueError(f"{text!r} is not a URL such as http://HOST:4318/v1/traces or grpc://HOST:4317")
    return value


def empty_is_none(value: object) -> object:
    return None if value == "" else value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
AutoCount = Annotated[int | Literal["auto"], BeforeValidator(_parse_count)]
OptionalText = Annotated[str | None, BeforeValidator(empty_is_none)]
