"""The server's configuration: flags, environment variables (QWEN_<FLAG>) and defaults, in that order of precedence.

Everything after `--` goes to vLLM's own argument parser, except the flags that the server owns.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from qwen_server import __version__

BUILTIN = "builtin:"
ENV_PREFIX = "QWEN_"

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


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
AutoCount = Annotated[int | Literal["auto"], BeforeValidator(_parse_count)]
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_none)]


class Settings(BaseSettings):
    """Field names are the flags' names with underscores; durations are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", enable_decoding=False, protected_namespaces=()
    )

    model: str = Field("builtin:news-classifier", min_length=1, description="PATH, REPO or builtin:NAME")
    served_model_name: OptionalText = Field(None, description="the model's name in the API")
    models_dir: Path = Field(
        Path(__file__).resolve().parents[2] / "models", description="folder of the models that come with the server"
    )
    host: str = Field("0.0.0.0", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")

    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="where the engine runs")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share each layer")
    pipeline_parallel_size: int = Field(1, ge=1, description="groups of GPUs that share the layers")
    max_model_len: int | None = Field(None, ge=1, description="tokens of prompt and answer; absent: the model's own")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU's memory to use")
    kv_cache_gib: float = Field(1.0, gt=0, description="size of the KV cache on a CPU, in GiB")
    dtype: str = Field("auto", min_length=1, description="auto, bfloat16, float16 or float32")
    quantization: OptionalText = Field(None, description="vLLM's name of a quantization method")
    revision: OptionalText = Field(None, description="branch, tag or commit of a repository")
    enforce_eager: bool = Field(False, description="no compilation and no CUDA graphs: starts faster, runs slower")
    tool_call_parser: str = Field("auto", description="auto (by the model's family), none, or vLLM's name of a parser")
    reasoning_parser: str = Field("auto", description="auto (by the model's family), none, or vLLM's name of a parser")

    max_concurrent_requests: AutoCount = Field(3, description="requests that run at a time")
    max_queue_size: AutoCount = Field(10, description="requests that may wait")
    queue_timeout: Duration = Field(30.0, description="how long a request may wait")
    request_timeout: Duration = Field(600.0, gt=0, description="how long a request may take in all")
    default_max_tokens: int = Field(100, ge=1, description="max_tokens of a request that gives none")
    max_tokens_limit: int = Field(512, ge=1, description="the largest max_tokens that a request may ask for")
    default_temperature: float = Field(0.7, ge=0, description="temperature of a request that gives none")
    min_temperature: float = Field(0.0, ge=0, description="the lowest temperature")
    max_temperature: float = Field(1.0, ge=0, description="the highest temperature")
    max_choices: int = Field(16, ge=1, description="the largest n of a request")
    max_prompts: int = Field(128, ge=1, description="the most prompts of a completion request")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="the largest request body")
    rate_limit: Annotated[RateLimit | None, BeforeValidator(parse_rate_limit), BeforeValidator(_empty_is_none)] = Field(
        None, description="such as 600/minute; absent: unlimited"
    )
    api_keys_dir: Annotated[Path | None, BeforeValidator(_empty_is_none)] = Field(
        None, description="folder in which each file's content is an API key; absent: no authentication"
    )

    drain_timeout: Duration = Field(60.0, description="how long accepted requests may take to finish after SIGTERM")
    alerts_file: Path = Field(Path("/etc/qwen/alerts/alerts.json"), description="overrides of the alerts, reloaded")
    podinfo_dir: Path = Field(Path("/etc/podinfo"), description="downward API folder with the file `annotations`")
    termination_log: Path = Field(Path("/dev/termination-log"), description="where the cause of an exit is written")
    log_format: Literal["json", "text"] = Field("json", description="one JSON object a line, or text")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least severe level logged")

    pass_through: tuple[str, ...] = Field((), exclude=True)

    @field_validator("pass_through")
    @classmethod
    def _refuse_owned_flags(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if reason := _why_refused(argument):
                raise ValueError(f"{argument.split('=')[0]} {reason}")
        return arguments

    @field_validator("max_concurrent_requests")
    @classmethod
    def _at_least_one_runs(cls, count: int | Literal["auto"]) -> int | Literal["auto"]:
        if count == 0:
            raise ValueError("at least 1 request must be able to run")
        return count

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.default_max_tokens > self.max_tokens_limit:
            raise ValueError("--default-max-tokens is above --max-tokens-limit")
        if not self.min_temperature <= self.default_temperature <= self.max_temperature:
            raise ValueError("--default-temperature is not between --min-temperature and --max-temperature")
        return self

    @property
    def model_path(self) -> str:
        """The folder of a built-in model, else the path or repository as given."""
        if self.model.startswith(BUILTIN):
            return str(self.models_dir / self.model.removeprefix(BUILTIN))
        return self.model

    @property
    def served_name(self) -> str:
        """The model's name in the API."""
        if self.served_model_name:
            return self.served_model_name
        if self.model == "builtin:news-classifier":
            return "qwen-news-classifier"
        return self.model.removeprefix(BUILTIN).rstrip("/").rsplit("/", 1)[-1]


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
_BEFORE_SEPARATOR = {
    name.replace("_", "-") for name in Settings.model_fields if name not in {"pass_through", "log_level", "log_format"}
}


def _why_refused(argument: str) -> str:
    """Why an argument after `--` is refused; empty if it may go to vLLM."""
    match = re.match(r"--?([A-Za-z][\w-]*)", argument)
    if match is None:
        return ""
    name = match[1].replace("_", "-")
    for owned, hint in _OWNED.items():
        if name == owned or (owned.endswith("*") and name.startswith(owned[:-1])):
            return f"is owned by the server: {hint}"
    if name in _BEFORE_SEPARATOR:
        return f"is the server's own flag: write --{name} before the `--`"
    return ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_model(settings: Settings) -> None:
    """Refuses a local model that is not there, before anything is loaded. Raises ConfigurationError."""
    path = Path(settings.model_path)
    local = settings.model.startswith((BUILTIN, "/", "./", "../")) or path.is_dir()
    if not local or (path / "config.json").is_file():
        return
    if settings.model.startswith(BUILTIN):
        known = sorted(found.parent.name for found in settings.models_dir.glob("*/config.json"))
        raise ConfigurationError(
            f"--model {settings.model}: there is no such model in {settings.models_dir} "
            f"(there is: {', '.join(known) or 'none'})"
        )
    what = "there is no config.json in this folder" if path.is_dir() else "there is no such folder"
    raise ConfigurationError(f"--model {settings.model}: {what}")


def _parser() -> _Parser:
    parser = _Parser(
        prog="qwen-server",
        description="OpenAI-compatible HTTP server for Qwen models over vLLM.",
        epilog="Every flag can also be given as an environment variable, such as QWEN_MAX_QUEUE_SIZE=20. "
        "Everything after `--` goes to vLLM, such as: qwen-server --model Qwen/Qwen3-8B -- --max-num-seqs=64",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qwen-server {__version__}")
    for name, field in Settings.model_fields.items():
        if name == "pass_through":
            continue
        text = (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(
                _flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            default = "" if field.default is None else f" (default: {_show(name, field.default)})"
            metavar = name.rsplit("_", 1)[-1].upper()
            parser.add_argument(_flag(name), default=argparse.SUPPRESS, metavar=metavar, help=text + default)
    return parser


def _show(name: str, value: Any) -> str:
    unit = "s" if name.endswith("_timeout") else ""
    return f"{value:g}{unit}" if isinstance(value, float) else str(value)


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        message = detail["msg"].removeprefix("Value error, ")
        given = "" if detail["type"] == "value_error" else f" (given: {detail['input']!r})"
        where = f"{_flag(name)} ({ENV_PREFIX}{name.upper()}): " if name and name != "pass_through" else ""
        lines.append(f"{where}{message}{given}")
    return "; ".join(lines)


def load_settings(arguments: Sequence[str]) -> Settings:
    """The settings of a command line (without the program's name) and the environment.

    Raises ConfigurationError, naming the flag; `--help` and `--version` print and raise SystemExit(0).
    """
    own, passed = list(arguments), []
    if "--" in own:
        cut = own.index("--")
        own, passed = own[:cut], own[cut + 1 :]
    values = vars(_parser().parse_args(own))
    try:
        return Settings(**values, pass_through=tuple(passed))
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    except SettingsError as error:
        raise ConfigurationError(str(error)) from error
