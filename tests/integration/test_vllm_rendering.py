"""Prompts are the same whether rendered inline or by vLLM's asynchronous code."""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qwen_server.config.patches import Patches
from qwen_server.config.settings import Settings
from qwen_server.engine.base import EngineError
from tests.integration.clients import tool_model
from tests.integration.clients.test_agents import CLAUDE, CODEX

pytestmark = pytest.mark.vllm

LONG = "央行宣布降息25个基点。" * 200
PLAIN = [{"role": "user", "content": "请分类这条新闻：央行宣布降息25个基点"}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXTS = st.text(max_size=600) | st.sampled_from(["", "<|im_end|>", "<|im_start|>user\n", "请分类：", LONG])
ROLES = st.sampled_from(["system", "user", "assistant"])
CONVERSATIONS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), min_size=1, max_size=5)
PROMPTS: st.SearchStrategy[Any] = st.one_of(
    TEXTS.filter(bool),
    st.lists(TEXTS.filter(bool), min_size=1, max_size=4),
    st.lists(st.integers(0, 1000), min_size=1, max_size=40),
)


# Like the template of newer models.
SYSTEM_FIRST = """\
{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}
{{- raise_exception('System message must be at the beginning.') }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


@pytest.fixture(scope="module")
def system_first(vllm_without_side_effects: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """vLLM's renderer with a template that refuses a system message after the first message."""
    from vllm.renderers import renderer_from_config
    from vllm.renderers.online_renderer import OnlineRenderer

    from qwen_server.engine.vllm.build import engine_arguments, parsed

    folder = tool_model.build(tmp_path_factory.mktemp("model") / "news")
    (folder / "chat_template.jinja").write_text(SYSTEM_FIRST, encoding="utf-8")
    arguments = engine_arguments(Settings(model=str(folder)), "cpu")
    config = parsed([*arguments, "--enforce-eager"]).create_engine_config()
    renderer = renderer_from_config(config)
    yield OnlineRenderer(
        renderer=renderer,
        model_config=config.model_config,
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
    )
    renderer.shutdown()


@pytest.fixture(scope="module")
def renderers(vllm_without_side_effects: None) -> Iterator[SimpleNamespace]:
    """vLLM's serving code with its own renderer and with the inline one, without an engine."""
    from vllm.renderers import renderer_from_config
    from vllm.renderers.online_renderer import OnlineRenderer

    from qwen_server.engine.vllm.build import engine_arguments, parsed
    from qwen_server.engine.vllm.patches.spot_renderer import render_on_the_spot

    config = parsed([*engine_arguments(Settings(), "cpu"), "--enforce-eager"]).create_engine_config()
    own, renderer = renderer_from_config(config), renderer_from_config(config)
    render_on_the_spot(renderer)
    submitted: list[Any] = []
    submit = renderer._executor.submit

    def noted(function: Any, *arguments: Any, **options: Any) -> Any:
        submitted.append(function)
        return submit(function, *arguments, **options)

    renderer._executor.submit = noted
    options = {"model_config": config.model_config, "request_logger": None, "chat_template": None}
    options |= {"chat_template_content_format": "auto", "default_chat_template_kwargs": {"enable_thinking": False}}
    yield SimpleNamespace(
        plain=OnlineRenderer(renderer=own, **options),
        spot=OnlineRenderer(renderer=renderer, **options),
        submitted=submitted,
    )
    own.shutdown()
    renderer.shutdown()


@pytest.mark.parametrize(
    ("template", "said"),
    [("{% for %}", "TemplateSyntaxError"), ("{{ messages[9].content.x }}", "Undefined"), ("{{ 1 // 0 }}", "Zero")],
)
def test_a_chat_template_that_cannot_render_ends_the_start(
    vllm_without_side_effects: None, template: str, said: str
) -> None:
    from qwen_server.engine.vllm.build import _chat_template, _family, engine_arguments, parsed

    settings = Settings(chat_template=template)
    arguments = parsed([*engine_arguments(settings, "cpu"), "--enforce-eager"])
    with pytest.raises(EngineError, match=f"^--chat-template: it cannot render a plain message: .*{said}"):
        _family(arguments.create_model_config(), _chat_template(settings))


def test_sleep_mode_on_a_cpu_ends_the_start(vllm_without_side_effects: None) -> None:
    from qwen_server.engine.vllm.build import build
    from qwen_server.engine.vllm.grammars.params import Grammars
    from qwen_server.engine.vllm.heartbeat import Heartbeat

    settings = Settings(pass_through=("--enable-sleep-mode",))
    with pytest.raises(EngineError, match="--enable-sleep-mode: vLLM has its sleep mode only on GPUs"):
        build(settings, Heartbeat(), None, Patches(frozenset()), Grammars(cast("Any", None)))


def chat(renderer: Any, messages: Any, **more: Any) -> Any:
    """The engine's inputs for a chat, or the error with which vLLM refuses it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    request = ChatCompletionRequest.model_validate({"model": "m", "messages": messages, "max_tokens": 8, **more})
    return rendered(renderer.render_chat(request))


def completion(renderer: Any, prompt: Any, **more: Any) -> Any:
    """The same for a completion."""
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    request = CompletionRequest.model_validate({"model": "m", "prompt": prompt, "max_tokens": 8, **more})
    return rendered(renderer.render_completion(request))


def rendered(work: Any) -> Any:
    from vllm.exceptions import VLLMValidationError

    try:
        found = asyncio.run(work)
    except VLLMValidationError as error:
        return type(error), str(error)
    inputs = found[1] if isinstance(found, tuple) else found
    return [{name: value for name, value in item.items() if name != "arrival_time"} for item in inputs]


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    CONVERSATIONS,
    st.sampled_from(
        [{}, {"truncate_prompt_tokens": 5, "truncation_side": "right"}, {"chat_template_kwargs": {"a": True}}]
    ),
)
def test_chats_are_rendered_alike(renderers: SimpleNamespace, messages: Any, more: dict[str, Any]) -> None:
    assert chat(renderers.spot, messages, **more) == chat(renderers.plain, messages, **more)


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    PROMPTS,
    st.sampled_from(
        [
            {},
            {"truncate_prompt_tokens": 5},
            {"truncate_prompt_tokens": 5, "truncation_side": "right"},
            {"add_special_tokens": False},
            {"echo": True},
        ]
    ),
)
def test_prompts_are_rendered_alike(renderers: SimpleNamespace, prompt: Any, more: dict[str, Any]) -> None:
    assert completion(renderers.spot, prompt, **more) == completion(renderers.plain, prompt, **more)


def test_a_prompt_that_is_too_long_is_refused_alike(renderers: SimpleNamespace) -> None:
    words = completion(renderers.plain, [1] * 5000)
    assert "maximum context length" in words[1]
    assert completion(renderers.spot, [1] * 5000) == words


def test_the_tokenizer_is_called_directly_only_if_it_gives_the_same(renderers: SimpleNamespace) -> None:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Lowercase

    from qwen_server.engine.vllm.patches.spot_renderer import _direct

    spot, plain = renderers.spot.renderer, renderers.plain.renderer
    assert spot.direct is not None
    assert spot.get_eos_token_id() == plain.get_eos_token_id()

    def called(backend: Any) -> Any:
        class Tokenizing:
            _tokenizer = backend

            def __call__(self, text: str, **options: Any) -> Any:
                return plain.tokenizer(text, **options)

        return _direct(Tokenizing())

    other: Any = Tokenizer.from_str(spot.direct.to_str())
    assert called(other) is other
    other.enable_truncation(4)
    assert called(other) is None
    other.no_truncation()
    other.normalizer = Lowercase()
    assert called(other) is None
    assert called(None) is None


def test_short_prompts_need_no_thread(renderers: SimpleNamespace) -> None:
    renderers.submitted.clear()
    assert chat(renderers.spot, PLAIN)
    assert completion(renderers.spot, ["请分类：", "类别："])
    assert renderers.submitted == []


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ([*PLAIN, {"role": "assistant", "content": LONG}], {}),
        ([*PLAIN, {"role": "x" * 2000, "content": "x"}], {}),
        ([{"role": "user", "content": "x"}] * 17, {}),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}] * 2 + [{"role": "user", "content": LONG}], {}),
        ([*PLAIN, {"role": "assistant", "content": "x", "tool_calls": [CALL]}], {}),
        (PLAIN, {"chat_template_kwargs": {"words": ["x"] * 1000}}),
        (PLAIN, {"chat_template_kwargs": {"number": 10**4000}}),
        (PLAIN, {"chat_template_kwargs": {f"switch_{index}": True for index in range(17)}}),
        (PLAIN, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}),
        (PLAIN, {"documents": [{"text": "x"}]}),
    ],
)
def test_all_that_may_take_its_time_goes_to_a_thread(renderers: SimpleNamespace, messages: Any, more: Any) -> None:
    renderers.submitted.clear()
    chat(renderers.spot, messages, **more)
    assert renderers.submitted
    renderers.submitted.clear()
    completion(renderers.spot, LONG)
    completion(renderers.spot, ["x"] * 17)
    assert len(renderers.submitted) == 18


def test_the_renderer_stays_what_vllm_asks_for(renderers: SimpleNamespace) -> None:
    """vLLM's code for Anthropic's API reads the model's own template only from this type."""
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.renderers.hf import HfRenderer

    assert isinstance(renderers.spot.renderer, HfRenderer)
    merges = [AnthropicServingMessages._should_merge_inline_system(each) for each in (renderers.plain, renderers.spot)]
    assert merges == [False, False]


@pytest.mark.parametrize("lacks", ["a pool of tokenizers", "a model of text only"])
def test_other_renderers_are_left_alone(renderers: SimpleNamespace, lacks: str) -> None:
    from qwen_server.engine.vllm.patches.spot_renderer import render_on_the_spot

    pooled = renderers.plain.renderer.tokenizer
    other = SimpleNamespace(
        tokenizer=object() if lacks == "a pool of tokenizers" else pooled,
        mm_processor=None if lacks == "a pool of tokenizers" else object(),
    )
    render_on_the_spot(other)
    assert type(other) is SimpleNamespace


def test_reminders_in_the_middle_fit_a_template_that_wants_them_first(system_first: Any) -> None:
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    from qwen_server.engine.vllm.messages_api import _Request

    said = [{"role": "system", "content": "x"}]
    assert "must be at the beginning" in str(chat(system_first, [*PLAIN, *said]))
    merged = AnthropicServingMessages._should_merge_inline_system(system_first)
    claude = _Request.model_validate(CLAUDE | {"max_tokens": 8})
    request = AnthropicServingMessages.to_chat_completion_request(claude, merge_inline_system=merged)
    (prompt,) = rendered(system_first.render_chat(request))
    text = system_first.renderer.tokenizer.decode(prompt["prompt_token_ids"])
    assert text.startswith("<|im_start|>system\nYou are Claude Code<system-reminder>x</system-reminder><|im_end|>")
    developer = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be brief"}]}
    user = {"type": "message", "role": "user", "content": "x"}
    codex = ResponsesRequest.model_validate(CODEX | {"model": "m", "input": [user, developer, user]})
    result = asyncio.run(system_first.render_responses(codex))
    text = system_first.renderer.tokenizer.decode(result.engine_input["prompt_token_ids"])
    assert text.startswith("<|im_start|>system\nYou are a coding agent\n\nbe brief<|im_end|>")
