"""Builds vLLM's objects from the settings.

Everything here runs in a thread and may take minutes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

from vllm import envs
from vllm.config import ModelConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.envs import enable_envs_cache
from vllm.platforms import current_platform
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerFactory

from qwen_server.config.chat_template import read_chat_template
from qwen_server.config.patches import Patches
from qwen_server.config.settings import ConfigurationError, Settings
from qwen_server.config.useless_settings import useless_in_engine
from qwen_server.engine.base import EngineError, EngineInfo
from qwen_server.engine.vllm.adapters import LoadedAdapters, Models
from qwen_server.engine.vllm.causes import one_line
from qwen_server.engine.vllm.client import EngineProxy
from qwen_server.engine.vllm.completion_api import Completion
from qwen_server.engine.vllm.data_type import computes_bfloat16_slowly, data_type_on_cpu
from qwen_server.engine.vllm.environment import prepare_for_cpu, runs_eagerly
from qwen_server.engine.vllm.grammars.params import Grammars
from qwen_server.engine.vllm.heartbeat import Heartbeat
from qwen_server.engine.vllm.image_connector import connect_images
from qwen_server.engine.vllm.images import Images, limit_images
from qwen_server.engine.vllm.model_family import Family, choose, detect
from qwen_server.engine.vllm.patches.checked_grammars import CHECKED_GRAMMARS, trust_checked_grammars
from qwen_server.engine.vllm.patches.early_core import EarlyChild, core_in
from qwen_server.engine.vllm.patches.fast_metrics import FAST_METRICS, EngineMetrics
from qwen_server.engine.vllm.patches.spot_renderer import SPOT_RENDERER, render_on_the_spot
from qwen_server.engine.vllm.patches.step_heartbeat import STEP_HEARTBEAT, stat_logger
from qwen_server.engine.vllm.tool_calls import WholeCallsChat
from qwen_server.observe.tracing import prepare_environment

_log = logging.getLogger(__name__)


_ANSWERS: Final = ("no", "yes")  # of a Qwen3-Reranker, as tokens
_QWEN3_RERANKER: Final = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": list(_ANSWERS),
    "is_original_qwen3_reranker": True,
}


@dataclass(frozen=True, slots=True)
class Parts:
    """A running engine and vLLM's own serving code over it.

    plain: renders prompts whose answers need no parser.
    serving_options: the options that all chat-like serving objects share.
    """

    llm: AsyncLLM
    client: EngineProxy
    grammars: Grammars
    plain: OnlineRenderer
    models: Models
    adapters: LoadedAdapters
    serving_options: dict[str, Any]
    chat: OpenAIServingChat
    completion: Completion
    info: EngineInfo
    default_sampling: dict[str, Any]
    images: Images


class _Parser(FlexibleArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EngineError(f"vLLM's arguments (after --): {message}")


def build(
    settings: Settings, heartbeat: Heartbeat, child: EarlyChild | None, patches: Patches, grammars: Grammars
) -> Parts:
    """Loads the model in `child` and builds the serving objects.

    Raises EngineError, or whatever vLLM raises.
    """
    device = _device(settings)
    if device == "cpu":
        prepare_for_cpu(settings)
    arguments = engine_arguments(settings, device)
    _log.info("starting the engine: %s", " ".join(arguments))
    engine_args = parsed(arguments)
    if engine_args.enable_sleep_mode and device == "cpu":
        raise EngineError("--enable-sleep-mode: vLLM has its sleep mode only on GPUs")
    choose_executor(engine_args, device)
    template = _chat_template(settings)
    config = engine_args.create_model_config()
    if settings.task == "rerank":
        read_as_reranker(engine_args, config)
    images = limit_images(engine_args, settings, config)
    if images.read:
        connect_images()
    for sentence in useless_in_engine(settings, device=device, reads_images=images.read):
        _log.warning("%s", sentence)
    family = _family(config, template)
    # The engine needs the parser too: a grammar applies only after the reasoning has ended.
    engine_args.reasoning_parser = choose(settings.reasoning_parser, family.reasoning_parser) or ""
    # This setting concerns only vLLM's own loggers. One of them aggregates every step for log
    # lines that we do not use, except for the iteration details.
    engine_args.disable_log_stats = not engine_args.enable_logging_iteration_details
    stat_loggers: list[StatLoggerFactory] = [EngineMetrics if patches.use(FAST_METRICS) else PrometheusStatLogger]
    if patches.use(STEP_HEARTBEAT):
        stat_loggers.append(stat_logger(heartbeat))
    with core_in(child, patches):
        llm = AsyncLLM.from_engine_args(
            engine_args,
            # The default context gives the scheduler smaller batches than vLLM's own server.
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=stat_loggers,
        )
    enable_envs_cache()  # otherwise vLLM reads its environment variables again for each token
    try:
        client = EngineProxy(llm, heartbeat, patches, grammars)
        return _serving(
            settings, device, llm, client, grammars, family=family, template=template, images=images, patches=patches
        )
    except BaseException:
        llm.shutdown(timeout=1)
        raise


def parsed(arguments: list[str]) -> AsyncEngineArgs:
    """Parses vLLM's command line with vLLM's parser. Raises EngineError."""
    # Abbreviations would bypass the check for flags that the server sets itself.
    parser = AsyncEngineArgs.add_cli_args(_Parser(add_help=False, prog="vllm", allow_abbrev=False))
    return AsyncEngineArgs.from_cli_args(parser.parse_args(arguments))


def _device(settings: Settings) -> Literal["cuda", "cpu"]:
    if current_platform.is_cuda():
        found: Literal["cuda", "cpu"] = "cuda"
    elif current_platform.is_cpu():
        found = "cpu"
    else:
        raise EngineError(f"vLLM found no device that it can use (its platform is {current_platform.device_name!r})")
    if settings.device not in ("auto", found):
        raise EngineError(f"--device {settings.device}: this installation of vLLM finds only {found}")
    return found


def engine_arguments(settings: Settings, device: Literal["cuda", "cpu"]) -> list[str]:
    """vLLM's command line: the server's own settings, then the user's pass-through arguments."""
    arguments = {
        "--model": settings.model_path,
        "--served-model-name": settings.served_name,
        "--tensor-parallel-size": settings.tensor_parallel_size,
        "--pipeline-parallel-size": settings.pipeline_parallel_size,
        "--max-model-len": settings.max_model_len,
        "--dtype": settings.dtype,
        "--quantization": settings.quantization,
        "--revision": settings.revision,
        "--otlp-traces-endpoint": _traces_endpoint(settings),
        # If SIGTERM reaches the engine directly, the engine also finishes its requests.
        "--shutdown-timeout": int(settings.drain_timeout),
    }
    if device == "cpu":
        arguments["--dtype"] = data_type_on_cpu(settings, slow=computes_bfloat16_slowly())
        arguments["--kv-cache-memory-bytes"] = int(settings.kv_cache_gib * (1 << 30))
    else:
        arguments["--gpu-memory-utilization"] = settings.gpu_memory_utilization
    if device == "cuda" or settings.lora:
        arguments["--worker-extension-cls"] = "qwen_server.engine.vllm.worker_extension.WorkerReports"
    if settings.task != "generate":
        arguments["--runner"] = "pooling"
        if settings.task == "embed":
            arguments["--convert"] = "embed"
    line = [f"{flag}={value}" for flag, value in arguments.items() if value is not None]
    if settings.lora:
        line += _adapter_arguments(settings, device)
    if runs_eagerly(settings, device):
        if not settings.enforce_eager:
            _log.info("found no C++ compiler, the engine runs without compilation (--enforce-eager)")
        line.append("--enforce-eager")
    return [*line, *settings.pass_through]


def _adapter_arguments(settings: Settings, device: Literal["cuda", "cpu"]) -> list[str]:
    """vLLM's flags for LoRA adapters."""
    # One more, because an adapter that is replaced exists twice until its requests have ended.
    # vLLM reads an adapter that it has dropped again from its files, during a step of the engine.
    most = settings.max_cpu_loras + 1
    at_once = min(settings.max_loras, settings.max_cpu_loras)
    if device == "cpu":
        # In a batch with adapters, vLLM's operators for CPUs apply the last slot to the requests
        # that name none: they index it by -1. With more slots than adapters it stays empty.
        most = at_once = most + 1
    return [
        "--enable-lora",
        f"--max-loras={at_once}",
        f"--max-lora-rank={settings.max_lora_rank}",
        f"--max-cpu-loras={most}",
    ]


def choose_executor(engine_args: AsyncEngineArgs, device: Literal["cuda", "cpu"]) -> None:
    """Runs a single CPU worker inside the engine core, as vLLM does for a single GPU.

    This saves a process to start and to exchange data with. vLLM gives every CPU worker its own
    process, because it binds OpenMP threads to cores through the environment of a new process.
    Without such a binding, as in our pods, the extra process has no purpose.
    """
    devices = engine_args.tensor_parallel_size * engine_args.pipeline_parallel_size * engine_args.data_parallel_size
    unbound = device == "cpu" and envs.VLLM_CPU_OMP_THREADS_BIND == "nobind"
    if unbound and devices == 1 and engine_args.distributed_executor_backend is None:
        # The full path, because vLLM turns the short name into "mp".
        engine_args.distributed_executor_backend = f"{UniProcExecutor.__module__}.{UniProcExecutor.__qualname__}"


def read_as_reranker(engine_args: AsyncEngineArgs, config: ModelConfig) -> None:
    """Makes a Qwen3-Reranker score by the probability of the answer yes, as it was trained.

    Its configuration is that of a model that generates. Nothing changes for other models, or if
    `--hf-overrides` says how to read the model. Raises EngineError if the answers are no tokens.
    """
    if engine_args.hf_overrides or getattr(config.hf_config, "architectures", None) != ["Qwen3ForCausalLM"]:
        return
    tokenizer = cached_tokenizer_from_config(config)
    missing = [answer for answer in _ANSWERS if _token(tokenizer, answer) is None]
    if missing:
        text = f"the tokenizer has no token for {' and '.join(missing)}, by which a Qwen3-Reranker answers"
        raise EngineError(f"--task=rerank: this model cannot do it; {text}")
    engine_args.hf_overrides = dict(_QWEN3_RERANKER)


def _token(tokenizer: Any, text: str) -> int | None:
    """The number of the token with exactly this text, or None."""
    number = tokenizer.convert_tokens_to_ids(text)
    return None if number is None or number == tokenizer.unk_token_id else int(number)


def _traces_endpoint(settings: Settings) -> str | None:
    endpoint = settings.otlp_traces_endpoint
    return None if endpoint is None else prepare_environment(endpoint)


def _serving(
    settings: Settings,
    device: Literal["cuda", "cpu"],
    llm: AsyncLLM,
    client: EngineProxy,
    grammars: Grammars,
    *,
    family: Family,
    template: str | None,
    images: Images,
    patches: Patches,
) -> Parts:
    config = llm.model_config
    if patches.use(SPOT_RENDERER):
        render_on_the_spot(llm.renderer)
    parsers = {
        "tool_parser": choose(settings.tool_call_parser, family.tool_parser),
        "reasoning_parser": choose(settings.reasoning_parser, family.reasoning_parser) or "",
    }
    templating = {
        "chat_template": template,
        "chat_template_content_format": "auto",
        "default_chat_template_kwargs": family.template_defaults,
        "enable_auto_tools": parsers["tool_parser"] is not None,
    }
    paths = [BaseModelPath(name=settings.served_name, model_path=settings.model)]
    models = Models(client, paths)
    adapters = LoadedAdapters(llm, models, settings)
    rendering = {
        "model_config": config,
        "renderer": llm.renderer,
        "request_logger": None,
        # vLLM would refuse any. The server lets only those of images pass, within its limits.
        "trust_request_mm_kwargs": True,
        **templating,
    }
    renderer = OnlineRenderer(**rendering, **parsers)
    renderer.warmup()
    # The parsers build their grammars again for each request, which costs more than the rendering.
    plain = OnlineRenderer(**rendering)
    details = {"enable_prompt_tokens_details": settings.enable_prompt_tokens_details}
    common = {"online_renderer": renderer, "request_logger": None, **details}
    options = {**common, **templating, **parsers}
    chat = WholeCallsChat(client, models, "assistant", **options)
    completion = Completion(client, models, **common)
    info = _info(settings, device, llm, family, patches)
    default_sampling = config.get_diff_sampling_param()
    if patches.use(CHECKED_GRAMMARS):
        trust_checked_grammars()
    return Parts(
        llm, client, grammars, plain, models, adapters, options, chat, completion, info, default_sampling, images
    )


def _chat_template(settings: Settings) -> str | None:
    try:
        return read_chat_template(settings)
    except ConfigurationError as error:
        raise EngineError(str(error)) from error


def _family(config: ModelConfig, given: str | None) -> Family:
    """What the template shows of the model. Raises EngineError if a `given` one cannot render."""
    tokenizer = cached_tokenizer_from_config(config)
    template = given or getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str):
        return Family()
    try:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hello"}], chat_template=given, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:
        if given is not None:
            text = f"--chat-template: it cannot render a plain message: {type(error).__name__}: {one_line(str(error))}"
            raise EngineError(text) from error
        _log.warning("the model's chat template cannot render a plain message", exc_info=True)
        prompt = ""
    return detect(template, str(prompt))


def _info(
    settings: Settings, device: Literal["cuda", "cpu"], llm: AsyncLLM, family: Family, patches: Patches
) -> EngineInfo:
    cache = llm.vllm_config.cache_config
    tokens = getattr(cache, "kv_cache_size_tokens", None) or (cache.num_gpu_blocks or 0) * (cache.block_size or 0)
    return EngineInfo(
        served_name=settings.served_name,
        root=settings.model,
        max_model_len=llm.model_config.max_model_len,
        max_num_seqs=llm.vllm_config.scheduler_config.max_num_seqs,
        kv_cache_tokens=int(tokens),
        device=device,
        can_sleep=llm.model_config.enable_sleep_mode,
        chats_need_parsing=family.always_thinks and settings.reasoning_parser != "none",
        patches=patches.in_use,
    )
