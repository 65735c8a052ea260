"""Sends requests of every kind before the first client, so that no client waits for the setup."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from qwen_server.config.values import Task
from qwen_server.engine.base import BusyError, InvalidRequestError, Kind, Output
from qwen_server.engine.vllm.images import plain_image

if TYPE_CHECKING:
    from qwen_server.engine.vllm.fast_path import FastPath
    from qwen_server.engine.vllm.reference_path import ReferencePath

_log = logging.getLogger(__name__)

_LIMITS = {"max_tokens": 4, "temperature": 0.7}
_CHAT = {"messages": [{"role": "user", "content": "你好"}], **_LIMITS}
_COMPLETION = {"prompt": "你好", **_LIMITS}
# Each of these uses its own path through the sampler. The first use of some paths compiles code.
_SAMPLING: tuple[Mapping[str, Any], ...] = ({}, {"top_p": 0.9, "top_k": 20}, {"temperature": 0.0}, {"seed": 1})
# On a GPU these compile further kernels, or wait for the first use of a library.
FURTHER: tuple[Mapping[str, Any], ...] = (
    {"response_format": {"type": "json_object"}},
    {"frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.1},
    {"min_p": 0.1, "logit_bias": {"1": 1.0}, "min_tokens": 2},
    {"n": 2},
)


# The least that a model of each other task can be asked.
POOLED: Mapping[Task, tuple[Kind, Mapping[str, Any]]] = {
    "embed": ("embeddings", {"input": "1"}),
    "rerank": ("score", {"queries": "1", "documents": "1"}),
    "classify": ("classify", {"input": "1"}),
}


async def warm_up_pooling(task: Task, reference: ReferencePath) -> None:
    """Sends a request of several texts. Raises EngineError if the model is not made for `task`."""
    started = time.monotonic()
    kind, body = POOLED[task]
    texts = {name: ["你好", "1"] for name in body}
    try:
        await reference.answer(kind, texts, "warm-up", started, ignore)
    except InvalidRequestError as error:
        _log.warning("warm-up: %s", error)
    _log.info("warmed up the engine in %.1f s", time.monotonic() - started)


async def warm_up(fast: FastPath, reference: ReferencePath, *, images: bool = False, wide: bool = False) -> None:
    """Runs requests over both paths, one of them with an image. They do not count in any metric.

    wide: also those that take their own kernels on a GPU: grammars, penalties, several choices, and
        two requests at a time.

    A model without a chat template rejects chats, and one with a very short context rejects more.
    This is not an error.
    """
    started = time.monotonic()
    for kind, body in _bodies(images=images):
        await _run(fast, kind, body)
    if wide:
        for further in FURTHER:
            await _run(fast, "completion", {**_COMPLETION, **further})
        await asyncio.gather(*(_run(fast, "completion", {**_COMPLETION, **sampling}) for sampling in _SAMPLING[1:3]))
    try:
        await reference.answer("completion", {**_COMPLETION, "logprobs": 1}, "warm-up", time.monotonic(), ignore)
    except InvalidRequestError as error:
        _log.warning("warm-up: %s", error)
    _log.info("warmed up the engine in %.1f s", time.monotonic() - started)


async def _run(fast: FastPath, kind: str, body: Mapping[str, Any]) -> None:
    prepare = fast.prepare_chat if kind == "chat" else fast.prepare_completion
    now = time.monotonic()
    try:
        prepared = await prepare(body, f"warm-up-{now}", now)
    except (InvalidRequestError, BusyError) as error:
        _log.warning("warm-up: %s", error)
        return
    async with aclosing(fast.generate(prepared)) as outputs:
        async for _ in outputs:
            pass


def _bodies(*, images: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    if images:
        parts = [{"type": "image_url", "image_url": {"url": plain_image(56, 56)}}, {"type": "text", "text": "你好"}]
        yield "chat", {"messages": [{"role": "user", "content": parts}], **_LIMITS}
    for stream in (False, True):
        yield "chat", {**_CHAT, "stream": stream}
        yield "completion", {**_COMPLETION, "stream": stream}
    for sampling in _SAMPLING:
        yield "completion", {**_COMPLETION, **sampling}


def ignore(_: Output) -> None:
    """Warm-up requests are not observed."""
