"""Thoughts under both names, in answers and in the history that comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qwen_server.engine.vllm.thoughts import named_twice, readable, streamed_twice

TEXTS = st.text(max_size=30) | st.sampled_from(['"reasoning":"x"', "\\", '\\"', '","reasoning":null'])


def streamed(*events: str) -> list[str]:
    async def source() -> AsyncGenerator[str, None]:
        for event in events:
            yield event

    async def collect() -> list[str]:
        return [event async for event in streamed_twice(source())]

    return asyncio.run(collect())


def test_a_whole_answer_has_both_names() -> None:
    choices: list[dict[str, Any]] = [
        {"message": {"content": "a", "reasoning": "t"}},
        {"message": {"content": "b", "reasoning": None}},
        {"message": {"content": "c"}},
    ]
    messages = [choice["message"] for choice in named_twice({"choices": choices})["choices"]]
    assert messages == [
        {"content": "a", "reasoning": "t", "reasoning_content": "t"},
        {"content": "b", "reasoning": None, "reasoning_content": None},
        {"content": "c"},
    ]


@given(TEXTS, TEXTS, st.booleans())
def test_a_streamed_thought_has_both_names_whatever_it_says(thought: str, content: str, ascii_only: bool) -> None:
    delta = {"role": "assistant", "content": content, "reasoning": thought}
    chunk = {"choices": [{"delta": delta, "logprobs": {"content": [{"token": content}]}}]}
    (event,) = streamed(f"data: {json.dumps(chunk, ensure_ascii=ascii_only, separators=(',', ':'))}\n\n")
    delta["reasoning_content"] = thought
    assert json.loads(event.removeprefix("data: ")) == chunk


def test_what_has_no_thought_is_relayed_as_it_is() -> None:
    events = ['data: {"choices":[{"delta":{"content":"\\"reasoning\\":\\"x\\""}}]}\n\n', "data: [DONE]\n\n"]
    assert streamed(*events) == events


def test_the_history_holds_thoughts_under_vllms_name() -> None:
    nothing = dict.fromkeys(("refusal", "audio", "function_call"))
    for thoughts in (
        {"reasoning": "t"},
        {"reasoning_content": "t"},
        {"reasoning": "t", "reasoning_content": "t"},
        {"reasoning": "t", "reasoning_content": "other"},
        {"reasoning": None, "reasoning_content": "t"},
        {"reasoning": "", "reasoning_content": "t"},
    ):
        given = [{"role": "assistant", "content": None, **nothing, **thoughts}]
        assert readable(given) == [{"role": "assistant", "reasoning": "t"}]
        assert "refusal" in given[0], "the client's body stays as it is"
    assert readable([{"role": "assistant", "content": "x", "reasoning_content": None}]) == [
        {"role": "assistant", "content": "x"}
    ]


def test_ordinary_messages_are_not_copied() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "reasoning": "t"}]
    assert all(left is right for left, right in zip(readable(messages), messages, strict=True))
