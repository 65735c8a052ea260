"""The server's settings, with their defaults and bounds. `command_line` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from qwen_server.config.pass_through import why_refused
from qwen_server.config.patches import ALL_PATCHES, parse_patches
from qwen_server.config.termination_log import KUBELETS_LOG
from qwen_server.config.values import (
    AutoCount,
    Domains,
    Duration,
    Folders,
    LoraModules,
    LoraRank,
    ModelNames,
    OptionalText,
    Origins,
    RateLimit,
    ServedNames,
    Task,
    Weights,
    empty_is_none,
    parse_api_keys,
    parse_collector,
    parse_rate_limit,
)

BUILTIN = "builtin:"
ENV_PREFIX = "QWEN_"


class ConfigurationError(Exception):
    """The configuration is not valid. The text names the flag and says what is wrong."""


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


class Settings(BaseSettings):
    """All settings.

    A field's name is the flag's name with underscores; durations are in seconds.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="ignore",
        enable_decoding=False,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    model: str = Field("builtin:news-classifier", min_length=1, description="PATH, REPO or builtin:NAME")
    served_model_name: ServedNames = Field(
        (), description="the model's name in the API; names after the first are aliases"
    )
    model_aliases: ModelNames = Field(
        (), description="further names for the model, separated by commas; an ending * stands for any ending"
    )
    models_dir: Path = Field(
        Path(__file__).resolve().parents[3] / "models", description="folder of the built-in models"
    )
    host: OptionalText = Field(None, description="address to listen on; unset: all, of IPv4 and of IPv6")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")

    task: Task = Field("generate", description="what the model is for: generate, embed, rerank or classify")
    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="where the engine runs")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share each layer")
    pipeline_parallel_size: int = Field(1, ge=1, description="groups of GPUs that share the layers")
    max_model_len: int | None = Field(None, ge=2, description="most tokens of prompt and answer; unset: the model's")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU memory to use")
    kv_cache_gib: float = Field(1.0, gt=0, description="size of the KV cache on a CPU, in GiB")
    dtype: str = Field(
        "auto",
        min_length=1,
        description="auto, bfloat16, float16 or float32; auto is float32 for a built-in model on a CPU without AVX-512",
    )
    quantization: OptionalText = Field(None, description="quantization method, as vLLM names it")
    revision: OptionalText = Field(None, description="branch, tag or commit of a repository")
    enforce_eager: bool = Field(False, description="skip compilation and CUDA graphs: starts faster, runs slower")
    enable_prompt_tokens_details: bool = Field(
        False, description="tell in the usage how many tokens of the prompt came from the prefix cache"
    )
    enable_tokenizer_info_endpoint: bool = Field(
        False, description="answer /tokenizer_info with the configuration of the tokenizer"
    )
    chat_template: OptionalText = Field(
        None, description="file with a chat template in Jinja, or the template itself; unset: the model's own"
    )
    tool_call_parser: str = Field("auto", description="auto (by model family), none, or a parser, as vLLM names it")
    reasoning_parser: str = Field("auto", description="auto (by model family), none, or a parser, as vLLM names it")

    enable_lora: bool = Field(False, description="serve LoRA adapters beside the model; --lora-modules implies it")
    lora_modules: LoraModules = Field(
        (),
        description="adapters that are loaded at the start: NAME=PATH, or JSON, which is an object with name and path, "
        "or a list of such objects",
    )
    max_loras: int = Field(4, ge=1, le=64, description="most adapters in one step of the engine, on GPUs")
    max_lora_rank: LoraRank = Field(
        16, description="highest rank of an adapter: 1, 8, 16, 32, 64, 128, 256, 320 or 512"
    )
    max_cpu_loras: int = Field(16, ge=1, le=1024, description="most adapters that are loaded at a time")
    lora_dirs: Folders = Field(
        (), description="folders from which administrators may load adapters, separated by commas; unset: none"
    )
    adapters_file: Path = Field(
        Path("/etc/qwen/adapters/adapters.json"),
        description="adapters to serve, with --enable-lora; followed while the server runs",
    )

    max_concurrent_requests: AutoCount = Field(3, description="requests that run at a time, or auto")
    max_queue_size: AutoCount = Field(10, description="requests that may wait in the queue, or auto")
    queue_timeout: Duration = Field(30.0, description="how long a request may wait in the queue")
    request_timeout: Duration = Field(600.0, gt=0, description="how long a request may take in total")
    default_max_tokens: int = Field(100, ge=1, description="max_tokens of requests that do not set it")
    max_tokens_limit: int = Field(512, ge=1, description="highest max_tokens of a request")
    on_exceed: Literal["refuse", "clamp"] = Field(
        "refuse", description="refuse requests with a max_tokens or min_tokens above the limit, or clamp them to it"
    )
    default_temperature: float = Field(0.7, ge=0, description="temperature of requests that do not set it")
    min_temperature: float = Field(0.0, ge=0, description="lowest temperature of a request")
    max_temperature: float = Field(1.0, ge=0, description="highest temperature of a request")
    max_choices: int = Field(16, ge=1, description="highest n of a request")
    max_prompts: int = Field(128, ge=1, description="most prompts in a completion request")
    max_inputs: int = Field(1024, ge=1, description="most texts to embed, rerank, score or classify in a request")
    max_stops: int = Field(32, ge=1, le=1024, description="most stop strings of a request")
    max_sequences: int = Field(256, ge=1, description="most sequences of a request: its prompts times n")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="largest request body, in bytes")
    max_images: int = Field(4, ge=0, description="most images of a request, where the model reads images")
    max_image_pixels: int = Field(1 << 24, ge=1, description="most pixels of an image")
    image_domains: Domains = Field(
        (), description="hosts that images may be fetched from, separated by commas; unset: only data URLs"
    )
    max_grammar_size: int = Field(1 << 18, ge=1, description="most characters of a request's grammar, such as a schema")
    max_grammar_values: int = Field(8192, ge=1, description="most values in a schema")
    max_grammar_depth: int = Field(32, ge=1, le=64, description="most levels of a schema")
    max_grammar_repeats: int = Field(4096, ge=1, description="highest repetition in a grammar, such as maxLength")
    max_grammar_branches: int = Field(4096, ge=1, description="most alternatives in one place of a grammar")
    grammar_timeout: Duration = Field(10.0, gt=0, description="how long the grammar of a request may compile")
    rate_limit: Annotated[RateLimit | None, BeforeValidator(parse_rate_limit), BeforeValidator(empty_is_none)] = Field(
        None, description="request rate per API key, such as 600/minute; unset: unlimited"
    )
    api_keys_dir: Annotated[Path | None, BeforeValidator(empty_is_none)] = Field(
        None, description="folder of files with API keys, one per line, reloaded on change; unset: no authentication"
    )

    tenant_weights: Weights = Field(
        {},
        description="shares of slots and queue by tenant, such as gold=3,free=1, where a tenant is a file in "
        "--api-keys-dir; a tenant that is not named has the weight 1",
    )
    tenant_reserve: int = Field(
        0, ge=0, description="slots that tenants above their share leave free while others send requests, too"
    )
    api_keys: Annotated[SecretStr | None, BeforeValidator(parse_api_keys)] = Field(
        None, description="API keys, separated by commas or white space; environment variable only"
    )
    admin_api_keys_dir: Annotated[Path | None, BeforeValidator(empty_is_none)] = Field(
        None,
        description="folder of files with keys of administrators, in the form of --api-keys-dir, reloaded on change; "
        "they are API keys as well and open the admin paths; unset: there are no admin paths",
    )
    metrics_tokens_dir: Annotated[Path | None, BeforeValidator(empty_is_none)] = Field(
        None,
        description="folder of files with tokens that open the metrics paths and nothing else, one per line, or their "
        "hashes (sha256:HEX), reloaded on change; with it, these paths require a token or an API key",
    )
    protect_metrics: bool = Field(
        False,
        description="require an API key on the metrics paths, too; in a cluster use --metrics-tokens-dir, so that the "
        "operator and its ServiceMonitor have access",
    )
    protect_docs: bool = Field(False, description="require an API key on /docs, /redoc and /openapi.json, too")
    cors_origins: Origins = Field(
        (), description="origins whose web pages may call the API, separated by commas, or *; unset: none"
    )
    header_timeout: Duration = Field(10.0, gt=0, description="how long a client may take to send its headers")
    body_timeout: Duration = Field(30.0, gt=0, description="how long a client may take to send its body")
    # Longer than common clients and proxies keep an idle connection (openai and httpx: 5 s, many
    # load balancers: 60 s), so that they close it and not the server. A request that arrives while
    # the server closes the connection cannot be retried safely.
    keep_alive_timeout: Duration = Field(75.0, gt=0, description="how long a connection may be idle")
    otlp_traces_endpoint: Annotated[str | None, BeforeValidator(parse_collector), BeforeValidator(empty_is_none)] = (
        Field(None, description="URL of an OpenTelemetry collector (http://HOST:4318/v1/traces or grpc://HOST:4317)")
    )

    patches: Annotated[frozenset[str], BeforeValidator(parse_patches)] = Field(
        frozenset(ALL_PATCHES),
        description="patches of vLLM and uvicorn that make the server faster: on, off, or names separated by commas "
        "(" + ", ".join(ALL_PATCHES) + ")",
    )
    engine_restarts: int = Field(
        3, ge=0, description="how often a dead engine is restarted within 10 minutes before the server exits; 0: never"
    )
    standby_core: Literal["auto", "on", "off"] = Field(
        "auto",
        description="keep a process for the next restart of the engine, which saves its imports; auto: if 2 GiB of "
        "memory are free and there are 4 CPUs",
    )
    drain_timeout: Duration = Field(60.0, description="how long accepted requests may take to finish after SIGTERM")
    alerts_file: Path = Field(Path("/etc/qwen/alerts/alerts.json"), description="alert overrides, reloaded on change")
    podinfo_dir: Path = Field(Path("/etc/podinfo"), description="folder of the downward API's `annotations` file")
    termination_log: Path = Field(KUBELETS_LOG, description="file for the cause of an exit")
    log_format: Literal["json", "text"] = Field("json", description="one JSON object per line, or text")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_prompts: bool = Field(False, description="log the text of prompts and answers, for debugging only")

    pass_through: tuple[str, ...] = Field((), exclude=True)

    @field_validator("pass_through")
    @classmethod
    def _refuse_owned_flags(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if reason := why_refused(argument, _BEFORE_SEPARATOR):
                raise ValueError(f"{argument.split('=')[0]} {reason}")
        return arguments

    @field_validator("max_concurrent_requests")
    @classmethod
    def _at_least_one_runs(cls, count: int | Literal["auto"]) -> int | Literal["auto"]:
        if count == 0:
            raise ValueError("at least 1 is required, or no request could run")
        return count

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.default_max_tokens > self.max_tokens_limit:
            raise ValueError("--default-max-tokens is above --max-tokens-limit")
        if not self.min_temperature <= self.default_temperature <= self.max_temperature:
            raise ValueError("--default-temperature is not between --min-temperature and --max-temperature")
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> Self:
        if self.lora_modules and "enable_lora" in self.model_fields_set and not self.enable_lora:
            off = "--no-enable-lora (or QWEN_ENABLE_LORA=false) turns them off"
            raise ValueError(f"--lora-modules names adapters, but {off}: leave out one of the two")
        if len(self.lora_modules) > self.max_cpu_loras:
            raise ValueError("--lora-modules names more adapters than --max-cpu-loras allows")
        for name, _ in self.lora_modules:
            if name in self.own_names:
                raise ValueError(f"--lora-modules: {name} is a name of the model itself")
        return self

    @property
    def lora(self) -> bool:
        """Whether LoRA adapters can be served."""
        return self.enable_lora or bool(self.lora_modules)

    @property
    def model_path(self) -> str:
        """The folder of a built-in model; otherwise `model` as it is, a path or a repository."""
        if self.model.startswith(BUILTIN):
            return str(self.models_dir / self.model.removeprefix(BUILTIN))
        return self.model

    @property
    def served_name(self) -> str:
        """The model's name in the API."""
        if self.served_model_name:
            return self.served_model_name[0]
        if self.model == "builtin:news-classifier":
            return "qwen-news-classifier"
        return self.model.removeprefix(BUILTIN).rstrip("/").rsplit("/", 1)[-1]

    @property
    def aliases(self) -> tuple[str, ...]:
        """The model's further names in the API. An ending `*` stands for any ending."""
        return (*self.served_model_name[1:], *self.model_aliases)

    @property
    def own_names(self) -> tuple[str, ...]:
        """The names that no LoRA adapter may have."""
        return (self.served_name, *self.aliases)

    def answers_to(self, name: str) -> bool:
        """Whether requests may call the model `name`: its own name, or an alias."""
        return name == self.served_name or any(
            name.startswith(alias[:-1]) if alias.endswith("*") else name == alias for alias in self.aliases
        )


_BEFORE_SEPARATOR = {
    name.replace("_", "-") for name in Settings.model_fields if name not in {"pass_through", "log_level", "log_format"}
}
