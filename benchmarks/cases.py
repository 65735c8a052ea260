"""Varied requests for the comparison of answers, generated from a seed.

Every request is valid and sets `temperature` and `max_tokens`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.servers import NAME

Body = dict[str, Any]

_TEXTS = (
    "股市今日大涨，多家上市公司公布业绩",
    "国足昨晚客场战胜对手",
    "新款手机发布，处理器性能提升三成",
    "教育部公布明年高考安排",
    "Two plus two is",
    "写一首关于春天的诗 🌸",
    'A "quoted" text\nwith a line break\tand a tab, and \\ a backslash',
    "楼市调控政策出台，房价走势如何？",
)
_SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["体育", "财经"]}},
    "required": ["label"],
    "additionalProperties": False,
}
_TOOL = {"type": "function", "function": {"name": "classify", "description": "a class", "parameters": _SCHEMA}}


@dataclass(frozen=True, slots=True)
class Case:
    """One request."""

    path: str
    body: Body


def cases(count: int, seed: int) -> list[Case]:
    """`count` requests, half of them chats and half completions, half streamed."""
    generator = random.Random(seed)
    return [_chat(generator) if number % 2 else _completion(generator) for number in range(count)]


def _base(generator: random.Random) -> Body:
    body: Body = {"model": NAME, "temperature": 0, "max_tokens": generator.choice((1, 2, 7, 16, 24, 40))}
    if generator.random() < 0.7:
        body["ignore_eos"] = True
    if generator.random() < 0.5:
        body["stream"] = True
        if generator.random() < 0.7:
            body["stream_options"] = {"include_usage": True}
            if generator.random() < 0.2:
                body["stream_options"]["continuous_usage_stats"] = True
    for feature in generator.sample(_COMMON, generator.choice((0, 1, 1, 2, 3))):
        feature(generator, body)
    if generator.random() < 0.25:
        generator.choice(_CONSTRAINTS)(generator, body)
    return body


def _sampled(generator: random.Random, body: Body) -> None:
    body |= {"temperature": generator.choice((0.3, 0.7, 1.0)), "seed": generator.randrange(1 << 31)}


def _nucleus(generator: random.Random, body: Body) -> None:
    _sampled(generator, body)
    body |= generator.choice(({"top_p": 0.8}, {"top_k": 20}, {"min_p": 0.05}, {"top_p": 0.9, "top_k": 50}))


def _choices(generator: random.Random, body: Body) -> None:
    _sampled(generator, body)
    body["n"] = generator.choice((2, 3, 5))


def _penalties(generator: random.Random, body: Body) -> None:
    options = ({"presence_penalty": 1.5}, {"frequency_penalty": -0.7}, {"repetition_penalty": 1.3})
    body |= generator.choice(options)


def _stops(generator: random.Random, body: Body) -> None:
    options: tuple[Body, ...] = (
        {"stop": "的"},
        {"stop": ["，", "。", "a"]},
        {"stop": ["大", "e"], "include_stop_str_in_output": True},
        {"stop_token_ids": [generator.randrange(300, 2000) for _ in range(40)]},
    )
    body |= generator.choice(options)


def _bias(generator: random.Random, body: Body) -> None:
    body["logit_bias"] = {str(generator.randrange(300, 2000)): generator.choice((-100, 5, 100)) for _ in range(5)}


def _lengths(generator: random.Random, body: Body) -> None:
    body["min_tokens"] = generator.randint(0, body["max_tokens"])


def _special(_: random.Random, body: Body) -> None:
    body |= {"skip_special_tokens": False, "spaces_between_special_tokens": False}


def _words(_: random.Random, body: Body) -> None:
    body["bad_words"] = ["体育", "财经"]


def _truncated(generator: random.Random, body: Body) -> None:
    body["truncate_prompt_tokens"] = generator.choice((4, 9))


def _token_ids(_: random.Random, body: Body) -> None:
    body["return_token_ids"] = True


def _salted(_: random.Random, body: Body) -> None:
    body["cache_salt"] = "salt"


_COMMON: tuple[Callable[[random.Random, Body], None], ...] = (
    _sampled,
    _nucleus,
    _choices,
    _penalties,
    _stops,
    _bias,
    _lengths,
    _special,
    _words,
    _truncated,
    _token_ids,
    _salted,
)


def _allowed(generator: random.Random, body: Body) -> None:
    body["allowed_token_ids"] = [generator.randrange(300, 2000) for _ in range(30)]


def _structured(generator: random.Random, body: Body) -> None:
    options: tuple[Body, ...] = (
        {"choice": ["体育", "财经", "科技"]},
        {"regex": "[0-9]{3}-[a-z]{2}"},
        {"json": _SCHEMA},
    )
    body["structured_outputs"] = generator.choice(options)


def _format(generator: random.Random, body: Body) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "label", "schema": _SCHEMA}}
    body["response_format"] = generator.choice(({"type": "json_object"}, schema, {"type": "text"}))


_CONSTRAINTS = (_allowed, _structured, _format)


def _chat(generator: random.Random) -> Case:
    body = _base(generator)
    content: Any = generator.choice(_TEXTS)
    if generator.random() < 0.2:
        content = [{"type": "text", "text": content}, {"type": "text", "text": "？"}]
    messages: list[Body] = [{"role": "user", "content": content}]
    if generator.random() < 0.3:
        messages.insert(0, {"role": "system", "content": "你是新闻分类助手"})
    if generator.random() < 0.2:
        messages += [{"role": "assistant", "content": "体育"}, {"role": "user", "content": generator.choice(_TEXTS)}]
    body["messages"] = messages
    if generator.random() < 0.25:
        body |= {"logprobs": True, "top_logprobs": generator.choice((0, 1, 5, 20))}
    if generator.random() < 0.2:
        body["max_completion_tokens"] = body.pop("max_tokens")
    if generator.random() < 0.2 and not {"structured_outputs", "response_format", "allowed_token_ids"} & set(body):
        named = {"type": "function", "function": {"name": "classify"}}
        body |= {"tools": [_TOOL], "tool_choice": generator.choice(("none", "auto", "required", named))}
    elif generator.random() < 0.1:
        body["messages"] = [*messages, {"role": "assistant", "content": "这是"}]
        body |= {"continue_final_message": True, "add_generation_prompt": False}
        if generator.random() < 0.5:
            body["echo"] = True
    return Case("/v1/chat/completions", body)


def _completion(generator: random.Random) -> Case:
    body = _base(generator)
    prompts: tuple[Any, ...] = (
        generator.choice(_TEXTS),
        generator.choice(_TEXTS),
        generator.sample(_TEXTS, 3),
        [generator.randrange(300, 2000) for _ in range(12)],
        [[generator.randrange(300, 2000) for _ in range(size)] for size in (5, 9)],
    )
    body["prompt"] = generator.choice(prompts)
    if generator.random() < 0.25:
        body["logprobs"] = generator.choice((0, 1, 5))
    if generator.random() < 0.15:
        body["echo"] = True
    if generator.random() < 0.1 and not body.get("stream"):
        body["prompt_logprobs"] = generator.choice((0, 2))
    return Case("/v1/completions", body)
