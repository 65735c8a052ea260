"""Types of settings besides numbers and text, such as durations, rates, and counts or `auto`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

# What a server does with its model.
Task = Literal["generate", "embed", "rerank", "classify"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_LORA_OBJECT = '{"name": "news", "path": "/adapters/news"}'


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


def parse_domains(value: object) -> object:
    """Returns the names of hosts in a text, separated by commas or white space.

    Raises ValueError.
    """
    if not isinstance(value, str):
        return value
    domains = tuple(re.split(r"[,\s]+", value.strip().lower())) if value.strip() else ()
    for domain in domains:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", domain):
            raise ValueError(f"{domain!r} is not the name of a host such as images.example.org")
    return domains


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


def parse_served_names(value: object) -> object:
    """Returns names without repetitions. A text has one, or several separated by white space.

    Raises ValueError.
    """
    if not isinstance(value, str | list):
        return value
    names = [str(name) for name in (value.split() if isinstance(value, str) else value) if name]
    for name in names[1:]:
        if "*" in name:
            raise ValueError(f"{name!r} must be a whole name; those of --model-aliases may end in *")
    return tuple(dict.fromkeys(names))


def parse_lora_modules(value: object) -> object:
    """Returns name and folder of each adapter, in the forms of vLLM.

    These are words NAME=PATH, and JSON: an object with `name` and `path`, or a list of them. A text
    has several words, separated by commas or white space, or JSON. Raises ValueError.
    """
    if not isinstance(value, str | list):
        return value
    modules = [module for word in ([value] if isinstance(value, str) else value) for module in _lora_modules(word)]
    names = [name for name, _ in modules]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there twice")
    return tuple(modules)


def _lora_modules(text: str) -> list[tuple[str, Path]]:
    if text.lstrip().startswith(("{", "[")):
        return _lora_objects(text)
    modules = [item.partition("=") for item in re.split(r"[,\s]+", text) if item]
    for name, sign, path in modules:
        if not path or not is_adapter_name(name):
            word = name + sign + path
            raise ValueError(f"{word!r} is neither NAME=PATH, such as news=/adapters/news, nor JSON: {_LORA_OBJECT}")
    return [(name, Path(path)) for name, _, path in modules]


def _lora_objects(text: str) -> list[tuple[str, Path]]:
    """The adapters of JSON: of an object, or of a list of objects."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} is not JSON such as {_LORA_OBJECT}, or a list of such objects") from error
    if not isinstance(found, list):
        return [_lora_module(repr(text), found)]
    return [_lora_module(f"entry {number} of {text!r}", fields) for number, fields in enumerate(found, 1)]


def _lora_module(what: str, fields: object) -> tuple[str, Path]:
    """The adapter of an object of JSON, which errors call `what`."""
    if isinstance(fields, dict) and "base_model_name" in fields:
        raise ValueError(f"{what} has base_model_name: the parent of an adapter is always the model, leave it out")
    match fields:
        case {"name": str(name), "path": str(path), **rest} if path and not rest and is_adapter_name(name):
            return name, Path(path)
    raise ValueError(f"{what} is not an object such as {_LORA_OBJECT}")


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


def parse_weights(value: object) -> object:
    """Returns the weights in a text such as gold=3,free=1. Raises ValueError."""
    if not isinstance(value, str):
        return value
    weights: dict[str, int] = {}
    for part in (part for part in re.split(r"[,\s]+", value) if part):
        name, _, number = part.rpartition("=")
        if not name or not re.fullmatch(r"[1-9]\d{0,2}|1000", number):
            raise ValueError(f"{part!r} is not TENANT=WEIGHT with a weight from 1 to 1000")
        if name in weights:
            raise ValueError(f"{name!r} has two weights")
        weights[name] = int(number)
    return weights


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
Domains = Annotated[tuple[str, ...], BeforeValidator(parse_domains)]
ModelNames = Annotated[tuple[str, ...], BeforeValidator(parse_model_names)]
ServedNames = Annotated[tuple[str, ...], BeforeValidator(parse_served_names)]
Weights = Annotated[Mapping[str, int], BeforeValidator(parse_weights)]
OptionalText = Annotated[str | None, BeforeValidator(empty_is_none)]
