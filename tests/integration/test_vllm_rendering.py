"""Prompts are the same whether rendered inline or by vLLM's asynchronous code."""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qwen_server.config.settings import Settings

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
