"""`python -m benchmarks.bodies`: what a request body costs before the engine sees it, in
microseconds of CPU.

`json` reads it within bounds, `check` holds it against its declaration, `vllm` is vLLM's own model
of it, which the reference path makes besides, and `msgspec` a C decoder without any check: what is
left to win.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from qwen_server.api.bodies.checking import Bodies
from qwen_server.config.settings import Settings
from qwen_server.engine.base import Kind
from qwen_server.http.body import parse_object
from qwen_server.http.error_bodies import HttpError

_MODELS: Final[dict[Kind, Any]] = {
    "chat": ChatCompletionRequest,
    "completion": CompletionRequest,
    "responses": ResponsesRequest,
    "messages": AnthropicMessagesRequest,
}
_WRONG: Final = ("max_tokens of 0", "message without a role", "100,000 stops", "a million messages")
_RUNS = 15
_RUN_SECONDS = 0.02
_USER = {"role": "user", "content": "请分类这条新闻：央行宣布降息25个基点"}
_CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "x"}'}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def cases() -> dict[str, tuple[Kind, dict[str, Any]]]:
    """Bodies as they come, and the last four as they should not."""
    talk = [{"role": ("user", "assistant")[turn % 2], "content": "一段普通的话 some text " * 5} for turn in range(20)]
    options: dict[str, Any] = {
        "min_tokens": 1,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "presence_penalty": 0.5,
        "seed": 42,
        "n": 2,
    }
    options |= {"frequency_penalty": 0.1, "repetition_penalty": 1.1, "stop": ["\n", "。"], "stop_token_ids": [1, 2, 3]}
    options |= {"logit_bias": {"5": -100, "77": 3.5}, "stream": True, "stream_options": {"include_usage": True}}
    called = [{"role": "assistant", "content": None, "tool_calls": [_CALL]}, {"role": "tool", "content": "18 C"}]
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "some text " * 8}]}
    blocks = [{"role": "user", "content": [{"type": "text", "text": "some text " * 8}]}] * 11
    return {
        "chat": ("chat", {"messages": [_USER], "max_tokens": 100, "temperature": 0.3}),
        "chat of 20 messages": ("chat", {"messages": talk, "stream": True}),
        "completion with 16 options": ("completion", {"prompt": "类别：", "max_tokens": 50} | options),
        "chat with 4 tools and a call": ("chat", {"messages": [_USER, *called], "tools": [_TOOL] * 4}),
        "chat of 50 calls": ("chat", {"messages": [_USER, *called * 50], "tools": [_TOOL]}),
        "response to 200 items": ("responses", {"input": [item] * 200}),
        "message of 11": ("messages", {"messages": blocks, "max_tokens": 64}),
        "100,000 token ids": ("completion", {"prompt": list(range(100_000))}),
        "max_tokens of 0": ("chat", {"messages": [_USER], "max_tokens": 0}),
        "message without a role": ("chat", {"messages": [_USER, {"content": "x"}]}),
        "100,000 stops": ("chat", {"messages": [_USER], "stop": ["a"] * 100_000}),
        "a million messages": ("chat", {"messages": [1] * 1_000_000}),
    }


def microseconds(work: Callable[[], object]) -> float:
    """CPU time of one `work`: the least of many runs, because other programs only ever make it
    dearer.
    """
    rounds, begun = 0, time.process_time()
    while time.process_time() - begun < _RUN_SECONDS or not rounds:
        work()
        rounds += 1
    runs = []
    for _ in range(_RUNS):
        begun = time.process_time()
        for _ in range(rounds):
            work()
        runs.append((time.process_time() - begun) / rounds)
    return 1e6 * min(runs)


def _refused(work: Callable[[], object]) -> Callable[[], None]:
    def attempt() -> None:
        with contextlib.suppress(HttpError):
            work()

    return attempt


def main() -> None:
    """Prints a table."""
    checked = Bodies(Settings(max_body_bytes=1 << 26))
    print(f"{'':30}{'bytes':>10}{'json':>10}{'check':>10}{'msgspec':>10}{'vllm':>10}")
    for name, (kind, body) in cases().items():
        raw = json.dumps(body, ensure_ascii=False).encode()
        given, named = parse_object(raw), {"model": "x", **body}
        work: list[Callable[[], object]] = [
            partial(parse_object, raw),
            partial(checked.check, kind, given),
            partial(msgspec.json.decode, raw),
        ]
        if name not in _WRONG:  # it lists all that is wrong, which takes seconds
            work.append(partial(_MODELS[kind].model_validate, named))
        costs = "".join(f"{microseconds(_refused(each)):10.1f}" for each in work)
        print(f"{name:30}{len(raw):10}{costs}", flush=True)


if __name__ == "__main__":
    main()
