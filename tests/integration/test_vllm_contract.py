"""How engine/vllm and vLLM work together, tried without starting an engine: an upgrade fails here
first.

What engine/vllm needs of vLLM's names, signatures and texts is declared in tests/contract and
checked by tests/unit/contract, without importing vLLM.
"""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import ConfigurationError, Settings
from qwen_server.engine.base import EngineError, EngineGoneError, InvalidRequestError

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("vllm_without_side_effects")]


def test_only_the_first_of_many_wrong_items_is_named() -> None:
    from qwen_server.engine.vllm.messages_api import _Request
    from qwen_server.engine.vllm.responses_api import _items, _of_item, conversation_request

    with pytest.raises(ValidationError) as caught:
        conversation_request().model_validate({"input": [{"type": "unheard_of"}] * 1000})
    assert caught.value.error_count() < 1000
    found = _of_item(caught.value)
    assert found is not None
    assert (found.param, found.status) == ("input[0]", 400)
    with pytest.raises(ValidationError) as caught:
        _Request.model_validate(
            {"model": "m", "max_tokens": 1, "messages": [{"role": "nobody", "content": "x"}] * 1000}
        )
    assert caught.value.error_count() < 10
    assert refused(caught.value, "messages")[1] == "messages"
    spelt = _items([{"role": "assistant", "content": [{"type": "output_text", "text": "x"}]}, {"type": "reasoning"}])
    assert [item["type"] for item in spelt if isinstance(item, dict)] == ["message", "reasoning"]


def test_anthropics_thoughts_become_the_templates_switch() -> None:
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

    from qwen_server.engine.vllm.messages_api import _Request, _with_switch

    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4096}
    for thinking, switch, budget in (
        (None, None, None),
        ({"type": "adaptive"}, False, None),
        ({"type": "disabled"}, False, None),
        ({"type": "enabled", "budget_tokens": 1024}, True, 1024),
    ):
        given = body if thinking is None else body | {"thinking": thinking}
        chat = AnthropicServingMessages.to_chat_completion_request(_Request.model_validate(_with_switch(given)))
        assert (chat.chat_template_kwargs or {}).get("enable_thinking") == switch
        assert (chat.thinking_token_budget, chat.reasoning_effort) == (budget, None)
        assert (chat.max_tokens, chat.n) == (4096, 1)


def test_a_failure_inside_a_streamed_message_keeps_its_cause() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionStreamResponse
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse

    from qwen_server.engine.vllm.client import ObservedRequest, current_request
    from qwen_server.engine.vllm.messages_api import _events, _Serving
    from qwen_server.engine.vllm.serving_objects import RefusedError

    delta = {"index": 0, "delta": {"role": "assistant", "content": ""}}
    chunk = ChatCompletionStreamResponse.model_validate({"id": "chatcmpl-1", "model": "m", "choices": [delta]})
    error = ErrorResponse.model_validate(
        {"error": {"message": "CUDA out of memory", "type": "InternalServerError", "param": None, "code": 500}}
    )

    class FailingChat(OpenAIServingChat):  # type: ignore[misc] # vLLM's classes are untyped from here
        """In place of vLLM's: a stream that fails after its first chunk, as chunks and as texts."""

        async def chat_completion_stream_generator_raw(self) -> AsyncGenerator[Any, None]:
            for item in (chunk, error, chunk):
                yield item

        async def create_chat_completion(self, _: Any, __: Any = None) -> AsyncGenerator[str, None]:
            async def texts() -> AsyncGenerator[str, None]:
                async for item in FailingChat.chat_completion_stream_generator_raw(self):
                    yield f"data: {item.model_dump_json()}\n\n"

            if hasattr(OpenAIServingChat, "chat_completion_stream_generator_raw"):
                events: AsyncGenerator[str, None] = self.chat_completion_stream_generator()
                return events
            return texts()

    class Serving(_Serving, FailingChat):
        def __init__(self) -> None:
            """Nothing is served but the failure."""

    async def relay() -> str:
        current_request.set(ObservedRequest(0.0, lambda _: None, nullcontext))
        serving = Serving()
        stream = await serving.create_chat_completion(None)
        if not hasattr(OpenAIServingChat, "chat_completion_stream_generator_raw"):
            stream = serving.message_stream_converter(stream)
        events = _events(stream)
        first = await anext(events)
        with pytest.raises(RefusedError, match="CUDA out of memory"):
            await anext(events)
        return first

    started = asyncio.run(relay())
    assert started.startswith("event: message_start\n")
    assert '"id":"msg_1"' in started


def test_the_parsers_that_a_family_names_are_vllms() -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    assert all(ToolParserManager.get_tool_parser(name) for name in ("hermes", "qwen3_xml"))
    assert ReasoningParserManager.get_reasoning_parser("qwen3")


def test_every_flag_that_we_give_is_vllms() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from qwen_server.engine.vllm.build import _Parser, engine_arguments

    settings = Settings(
        tensor_parallel_size=2,
        max_model_len=128,
        quantization="fp8",
        revision="main",
        enforce_eager=True,
        kv_cache_gib=0.5,
        pass_through=("--max-num-seqs=7",),
    )
    parser = AsyncEngineArgs.add_cli_args(_Parser(add_help=False, prog="vllm"))
    on_cpu = AsyncEngineArgs.from_cli_args(parser.parse_args(engine_arguments(settings, "cpu")))
    assert on_cpu.kv_cache_memory_bytes == 1 << 29
    assert (on_cpu.tensor_parallel_size, on_cpu.max_model_len, on_cpu.max_num_seqs) == (2, 128, 7)
    assert on_cpu.served_model_name == ["qwen-news-classifier"]
    assert on_cpu.enforce_eager
    assert on_cpu.shutdown_timeout == 60
    on_cuda = AsyncEngineArgs.from_cli_args(parser.parse_args(engine_arguments(settings, "cuda")))
    assert on_cuda.gpu_memory_utilization == 0.9
    assert on_cuda.worker_extension_cls == "qwen_server.engine.vllm.worker_extension.WorkerReports"
    with pytest.raises(EngineError, match="--unheard-of"):
        parser.parse_args(["--unheard-of=1"])


def test_the_environment_of_a_cpu_is_known_before_vllm_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the early engine core restarts and the start takes as long as its imports."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    from qwen_server.engine.vllm.environment import core_modules, expected_device, prepare_for_cpu
    from qwen_server.engine.vllm.patches.early_core import READ_LATE

    for name in ("LD_PRELOAD", "TORCH_COMPILE_DISABLE", "TORCHINDUCTOR_CPP_DYNAMIC_THREADS"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings(enforce_eager=True)
    assert expected_device(settings) == "cpu"
    prepare_for_cpu(settings)
    for module in core_modules(settings):
        importlib.import_module(module)  # some set variables themselves, in either process
    before = dict(os.environ)
    AsyncEngineArgs(model=settings.model_path, enforce_eager=True).create_engine_config()
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    assert changed <= READ_LATE


def test_what_vllm_sets_for_the_engine_core_on_a_gpu_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine import utils
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    from qwen_server.engine.vllm.patches.early_core import READ_LATE

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(utils.current_platform, "is_cpu", lambda: False)
    before = dict(os.environ)
    with utils._configure_uniproc_startup_threads(UniProcExecutor, 1):
        changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    assert "OMP_NUM_THREADS" in changed
    assert changed <= READ_LATE


def test_a_single_cpu_without_bound_threads_needs_no_worker_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.executor import Executor, uniproc_executor
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    from qwen_server.engine.vllm.build import choose_executor

    def executor(**arguments: Any) -> object:
        chosen = AsyncEngineArgs(model=Settings().model_path, enforce_eager=True, **arguments)
        choose_executor(chosen, "cpu")
        return Executor.get_class(chosen.create_engine_config())

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    assert executor() is uniproc_executor.UniProcExecutor
    assert executor(distributed_executor_backend="mp") is MultiprocExecutor
    assert executor(tensor_parallel_size=3) is MultiprocExecutor
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "auto")
    assert executor() is MultiprocExecutor


def test_a_request_becomes_sampling_parameters() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.sampling_params import RequestOutputKind

    chat = ChatCompletionRequest.model_validate(
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "temperature": 0.3, "stream": True, "n": 2}
    )
    params = chat.to_sampling_params(9, {"top_k": 20})
    assert (params.max_tokens, params.temperature, params.top_k, params.n) == (9, 0.3, 20, 2)
    assert params.output_kind == RequestOutputKind.DELTA
    completion = CompletionRequest.model_validate({"prompt": ["a", "b"], "max_tokens": 3})
    assert completion.to_sampling_params(3, {}).output_kind == RequestOutputKind.FINAL_ONLY


def raised(error: Exception, prompt_param: str = "prompt") -> Exception:
    from qwen_server.engine.vllm.translation import translated

    with pytest.raises((EngineError, InvalidRequestError)) as caught, translated(prompt_param, lambda: "it was killed"):
        raise error
    return caught.value


def refused(error: Exception, prompt_param: str = "prompt") -> tuple[int, str | None, str | None, str]:
    found = raised(error, prompt_param)
    assert isinstance(found, InvalidRequestError)
    return found.status, found.param, found.code, found.message


def test_the_clients_mistakes_name_their_parameter() -> None:
    from vllm.exceptions import VLLMNotFoundError, VLLMUnprocessableEntityError, VLLMValidationError

    from qwen_server.engine.vllm.image_errors import ImageError

    too_long = "This model's maximum context length is 8 tokens. However, your prompt contains 9 input tokens"
    assert refused(VLLMValidationError(too_long, parameter="input_tokens", value=9), "messages") == (
        400,
        "messages",
        "context_length_exceeded",
        too_long,
    )
    assert refused(VLLMValidationError("bad seed", parameter="seed", value=1)) == (400, "seed", None, "bad seed")
    assert refused(ValueError("n must be 1 when using greedy sampling"))[:2] == (400, "n")
    assert refused(ValueError("Token id 9 is out of vocabulary"))[:2] == (400, "prompt")
    for message, param in {
        "min_tokens must be less than or equal to max_tokens=3, got 5.": "min_tokens",
        "bad_words cannot contain an empty string. Got bad_words=['']": "bad_words",
        "Cannot set both `continue_final_message` and `add_generation_prompt` to True.": "continue_final_message",
        "Choice '[]' cannot be an empty list": "response_format",
        "The decoder prompt cannot be empty": "prompt",
        "f() got multiple values for argument 'x'": None,
    }.items():
        assert refused(ValueError(message))[:2] == (400, param)
    assert refused(VLLMNotFoundError("no such adapter"))[0] == 404
    assert refused(VLLMUnprocessableEntityError("unreadable image"))[0] == 422
    assert refused(NotImplementedError("not for this model"))[0] == 400
    # Nothing tells where it is, because no body is given.
    unread = ImageError("the image is bad", "data:image/png;base64,AAAA")
    assert refused(unread, "messages") == (400, "messages", None, "one of the images: the image is bad")


def test_a_body_that_vllm_cannot_read_names_the_field() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "seed": "x"})
    assert refused(caught.value)[:2] == (400, "seed")
    # Parts are read late, and then vLLM does not know any more whose they are.
    request = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": [{"type": "other"}]}]})
    with pytest.raises(ValidationError) as caught:
        list(request.messages[0]["content"])
    assert refused(caught.value, "messages")[:2] == (400, "messages")


def test_the_engines_failures_are_engine_errors() -> None:
    from vllm.exceptions import GenerationError
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    dead = raised(EngineDeadError())
    assert isinstance(dead, EngineGoneError)
    assert str(dead) == "it was killed"
    failed = EngineGenerateError()
    failed.__cause__ = RuntimeError("CUDA out of memory")
    assert str(raised(failed)) == "CUDA out of memory"
    for error in (GenerationError("bad logits"), RuntimeError("unexpected")):
        found = raised(error)
        assert isinstance(found, EngineError)
        assert not isinstance(found, EngineGoneError)


async def test_an_engine_without_its_output_handler_counts_as_dead() -> None:
    """The engine core works on, but nobody reads its tokens."""
    from vllm.v1.engine.async_llm import AsyncLLM

    handler = asyncio.create_task(asyncio.Event().wait())
    resources = SimpleNamespace(engine_dead=False)
    llm = SimpleNamespace(output_handler=handler, engine_core=SimpleNamespace(resources=resources))

    def errored() -> bool:
        llm.is_running = AsyncLLM.is_running.fget(llm)
        return bool(AsyncLLM.errored.fget(llm))

    assert not errored()
    handler.cancel()
    await asyncio.wait([handler])
    assert errored()


def flags_of(parser: Any) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


def test_every_flag_of_vllms_own_http_server_is_refused_by_name() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # 0.33 has it beside the other commands' flags.
    places = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.common.cli_args")
    place = next(name for name in places if importlib.util.find_spec(name))
    make_arg_parser = importlib.import_module(place).make_arg_parser

    engine = flags_of(AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False)))
    frontend = flags_of(make_arg_parser(FlexibleArgumentParser(add_help=False))) - engine
    assert {"--host", "--api-key", "--allowed-origins", "--ssl-keyfile", "--enable-log-outputs"} <= frontend
    for flag in frontend:
        with pytest.raises(ConfigurationError, match=re.escape(flag)):
            load_settings(["--", flag])
    engines_own = {flag for flag in engine if flag.startswith("--data-parallel")}
    engines_own |= {"-dp", "-tp", "-q", "--disable-log-stats", "--enable-log-requests", "--max-num-queued-reqs"}
    assert engines_own <= engine
    for flag in engines_own:
        with pytest.raises(ConfigurationError, match=re.escape(flag)):
            load_settings(["--", flag])


@pytest.mark.parametrize(
    "argument", ["--served-model-nam=x", "--data-paralle-size=2", "--disable-log-stat", "--hf-tok=x"]
)
def test_an_abbreviated_flag_is_refused(argument: str) -> None:
    from qwen_server.engine.vllm.build import parsed

    with pytest.raises(EngineError, match=re.escape(argument)):
        parsed([argument])
    assert parsed(["--max-num-seqs=7", "-O0"]).max_num_seqs == 7


def test_a_vllm_that_starts_its_core_in_another_way_does_without_the_early_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.v1.engine import utils

    from qwen_server.config.patches import Patches
    from qwen_server.engine.vllm.patches.early_core import EARLY_CORE, EarlyChild, core_in

    patches = Patches(frozenset({EARLY_CORE.name}))
    assert patches.use(EARLY_CORE)
    child = EarlyChild("EngineCore", [])
    monkeypatch.delattr(utils, "get_mp_context")
    with core_in(child, patches):
        assert patches.in_use == {EARLY_CORE.name: False}
    assert not Path(f"/proc/{child.pid}").exists()
