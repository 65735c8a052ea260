"""Reads the configuration from flags, environment variables (QWEN_<FLAG>) and defaults.

Flags take precedence over variables, and variables over defaults. Everything after `--` goes to
vLLM's own argument parser, except the flags that `pass_through` refuses.
"""

from __future__ import annotations

import argparse
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import SettingsError

from qwen_server import __version__
from qwen_server.config.settings import BUILTIN, ENV_PREFIX, ConfigurationError, Settings, flag
from qwen_server.config.unknown_flags import explain

# Everyone on the machine can read a command line.
_ENVIRONMENT_ONLY = ("api_keys",)
# Flags with several values, as in vLLM: --served-model-name NAME ALIAS.
_SEVERAL = ("served_model_name", "lora_modules")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message)

    def flags(self) -> list[str]:
        """Every flag as it is written, with the `--no-` of switches."""
        return [written for action in self._actions for written in action.option_strings]


def check_model(settings: Settings) -> None:
    """Checks that a local model exists, before anything is loaded. Raises ConfigurationError."""
    path = Path(settings.model_path)
    local = settings.model.startswith((BUILTIN, "/", "./", "../")) or path.is_dir()
    if not local or (path / "config.json").is_file():
        return
    if settings.model.startswith(BUILTIN):
        known = sorted(found.parent.name for found in settings.models_dir.glob("*/config.json"))
        raise ConfigurationError(
            f"--model {settings.model}: there is no such model in {settings.models_dir} "
            f"(available: {', '.join(known) or 'none'})"
        )
    what = "the folder has no config.json" if path.is_dir() else "the folder does not exist"
    raise ConfigurationError(f"--model {settings.model}: {what}")


def check_adapters(settings: Settings) -> None:
    """Checks that the folders of --lora-modules exist, before anything is loaded.

    Raises ConfigurationError.
    """
    for name, path in settings.lora_modules:
        if trouble := _trouble_with_folder(path):
            hub = "" if path.is_absolute() else "; for an adapter from a hub use --adapters-file"
            raise ConfigurationError(f"--lora-modules {name}={path}: {trouble}{hub}")


def _trouble_with_folder(path: Path) -> str:
    """Why a path is not a folder; empty if it is one."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a null byte, which JSON may have
        return str(error)
    return "" if is_folder else "it is not a folder"


def _parser() -> _Parser:
    parser = _Parser(
        prog="qwen-server",
        description="OpenAI-compatible HTTP server for Qwen models over vLLM.",
        epilog="Every flag can also be set by an environment variable, for example QWEN_MAX_QUEUE_SIZE=20. "
        "Everything after `--` goes to vLLM, for example: qwen-server --model Qwen/Qwen3-8B -- --max-num-seqs=64. "
        "`qwen-server download`, followed by the same flags, only puts the model into the cache.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qwen-server {__version__}")
    for name, field in Settings.model_fields.items():
        if name == "pass_through" or name in _ENVIRONMENT_ONLY:
            continue
        text = (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            default = "" if field.default in (None, (), {}) else f" (default: {_show(name, field.default)})"
            metavar = name.rsplit("_", 1)[-1].upper()
            count = "+" if name in _SEVERAL else None
            parser.add_argument(
                flag(name), nargs=count, default=argparse.SUPPRESS, metavar=metavar, help=text + default
            )
    return parser


def _show(name: str, value: Any) -> str:
    if name == "patches":
        return "on"
    unit = "s" if name.endswith("_timeout") else ""
    return f"{value:g}{unit}" if isinstance(value, float) else str(value)


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        message = detail["msg"].removeprefix("Value error, ")
        hidden = detail["type"] == "value_error" or name in _ENVIRONMENT_ONLY
        given = "" if hidden else f" (given: {detail['input']!r})"
        lines.append(f"{_where(name)}{message}{given}")
    return "; ".join(lines)


def _where(name: str) -> str:
    """The flag and the variable of a setting, to begin an error with."""
    if name in ("", "pass_through"):
        return ""
    variable = f"{ENV_PREFIX}{name.upper()}"
    return f"{variable}: " if name in _ENVIRONMENT_ONLY else f"{flag(name)} ({variable}): "


def load_settings(arguments: Sequence[str]) -> Settings:
    """Returns the settings from the command line (without the program's name) and the environment.

    Raises ConfigurationError with the name of the flag. `--help` and `--version` print their text
    and raise SystemExit(0).
    """
    own, passed = list(arguments), []
    if "--" in own:
        cut = own.index("--")
        own, passed = own[:cut], own[cut + 1 :]
    parser = _parser()
    values, unknown = parser.parse_known_args(own)
    if unknown:
        raise ConfigurationError(explain(unknown, parser.flags()))
    try:
        return Settings(**vars(values), pass_through=tuple(passed))
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    except SettingsError as error:
        raise ConfigurationError(str(error)) from error
