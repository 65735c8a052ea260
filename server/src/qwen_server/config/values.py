"""Types of settings besides numbers and text, such as durations, rates, and counts or `auto`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


class RateLimit(NamedTuple):
    """At most `requests` per `seconds`. `text` is the user's notation, such as 600/minute."""

    requests: int
    seconds: float
    text: str


def parse_duration(value: object) -> float:
    """Returns the seconds of a duration such as 500ms, 30s, 5m, 1h or 1m30s.

    A plain number is in seconds. Raises ValueError.
    """
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
    """Returns the RateLimit of a text such as 600/minute. Raises ValueError."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([1-9]\d*)\s*/\s*(second|minute|hour|day)", value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a rate such as 10/second, 600/minute, 5000/hour or 100000/day")
    return RateLimit(int(match[1]), _PERIODS[match[2]], f"{match[1]}/{match[2]}")


def parse_origins(value: object) -> object:
    """Returns the origins (SCHEME://HOST[:PORT] or `*`) in a text.

    They are separated by commas or white space. Raises ValueError.
    """
    if not isinstance(value, str):
        return value
    origins = tuple(re.split(r"[,\s]+", value.strip())) if value.strip() else ()
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"[A-Za-z][\w+.-]*://[^/?#@\s]+", origin):
            raise ValueError(f"{origin!r} is neither an origin such as https://example.org:8443 nor *")
    return origins


def parse_model_names(value: object) -> object:
    """Returns the names of models in a text, separated by commas or white space.

    A name may end in `*`, which stands for any ending. Raises ValueError.
    """
    if not isinstance(value, str):
        return value
    names = tuple(name for name in re.split(r"[,\s]+", value) if name)
    for name in names:
        if "*" in name[:-1]:
            raise ValueError(f"{name!r} may contain * only at its end")
    return names


def parse_lora_modules(value: object) -> object:
    """Returns name and folder of each adapter in a text: NAME=PATH, as vLLM writes them.

    They are separated by commas or white space. Raises ValueError.
    """
    if not isinstance(value, str):
        return value
    modules = [tuple(item.split("=", 1)) for item in re.split(r"[,\s]+", value) if item]
    for module in modules:
        if len(module) != 2 or not module[1] or not is_adapter_name(module[0]):
            raise ValueError(f"{'='.join(module)!r} is not NAME=PATH, such as news=/adapters/news")
    names = [module[0] for module in modules]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there twice")
    return tuple((module[0], Path(module[1])) for module in modules)


def is_adapter_name(name: str) -> bool:
    """Whether an adapter may have this name, so that requests and flags can name it."""
    return re.fullmatch(r"[^\s,=*\x00-\x1f\x7f]{1,253}", name) is not None


def parse_folders(value: object) -> object:
    """Returns the folders in a text, separated by commas. Raises ValueError unless absolute."""
    if not isinstance(value, str):
        return value
    folders = tuple(Path(part.strip()) for part in value.split(",") if part.strip())
    for folder in folders:
        if not folder.is_absolute():
            raise ValueError(f"{str(folder)!r} is not an absolute path")
    return folders


def parse_api_keys(value: object) -> object:
    """Checks that a text contains an API key. Raises ValueError.

    A variable that is set but empty is a mistake: the server would otherwise run without keys.
    """
    if isinstance(value, str) and not value.strip(", \t\r\n"):
        raise ValueError("it contains no key; unset it to serve without keys")
    return value


def _parse_count(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+", value.strip()):
        return int(value)
    raise ValueError(f"{value!r} is neither a whole number nor auto")


def _whole(value: object) -> object:
    """The number in a text: a choice of numbers takes no text."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip()) else value


def parse_collector(value: object) -> object:
    """Checks the URL of an OpenTelemetry collector: http, https or grpc, with a host.

    Raises ValueError.
    """
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
Origins = Annotated[tuple[str, ...], BeforeValidator(parse_origins)]
LoraRank = Annotated[Literal[1, 8, 16, 32, 64, 128, 256, 320, 512], BeforeValidator(_whole)]
LoraModules = Annotated[tuple[tuple[str, Path], ...], BeforeValidator(parse_lora_modules)]
Folders = Annotated[tuple[Path, ...], BeforeValidator(parse_folders)]
ModelNames = Annotated[tuple[str, ...], BeforeValidator(parse_model_names)]
OptionalText = Annotated[str | None, BeforeValidator(empty_is_none)]
