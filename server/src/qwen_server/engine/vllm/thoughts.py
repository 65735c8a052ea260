"""The thoughts of a model in chats, under both of their names.

vLLM calls them `reasoning`. It called them `reasoning_content` before, as other servers do, and
many clients read and send only that name.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

_NAME, _OTHER_NAME = "reasoning", "reasoning_content"
# Quotes inside of a text are escaped, so that this matches only the field.
_FIELD = re.compile(rf'"{_NAME}":("(?:[^"\\]|\\.)*"|null)')
_TWICE = rf'"{_NAME}":\1,"{_OTHER_NAME}":\1'


def named_twice(body: dict[str, Any]) -> dict[str, Any]:
    """The body of an answer with both names in its messages."""
    for choice in body["choices"]:
        message = choice["message"]
        if _NAME in message:
            message[_OTHER_NAME] = message[_NAME]
    return body


async def streamed_twice(source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """The events of a stream with both names in their deltas."""
    async with aclosing(source):
        async for event in source:
            yield _FIELD.sub(_TWICE, event)


def readable(messages: list[Any]) -> list[Any]:
    """The messages of a conversation so that vLLM reads all that they hold.

    vLLM refuses some fields that are null, such as a name. It would prefer an empty `reasoning` to
    the thought under the other name, which tokenization does not know at all.
    """
    return [_without_nulls(message) if _is_odd(message) else message for message in messages]


def _is_odd(message: Any) -> bool:
    return isinstance(message, dict) and (_OTHER_NAME in message or None in message.values())


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if value is not None}
    if other := kept.pop(_OTHER_NAME, None):
        kept[_NAME] = kept.get(_NAME) or other
    return kept
