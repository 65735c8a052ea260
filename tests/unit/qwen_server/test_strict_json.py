"""Answers are JSON for strict parsers too: they hold no infinity and no NaN."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from qwen_server.http.asgi import send_json


def sent(body: dict[str, Any]) -> Any:
    messages: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)

    asyncio.run(send_json(send, 200, body))
    head, content = messages
    assert dict(head["headers"])[b"content-length"] == str(len(content["body"])).encode()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(content["body"], parse_constant=refuse)


def test_numbers_that_json_lacks_are_replaced() -> None:
    lowest, highest, unknown = float("-inf"), float("inf"), float("nan")
    body = {"logprobs": [{"a": lowest, "b": [-0.5, (unknown, highest)]}, None], "text": "财经", "n": 1}
    assert sent(body) == {"logprobs": [{"a": -9999.0, "b": [-0.5, [None, None]]}, None], "text": "财经", "n": 1}


def test_other_bodies_are_sent_as_they_are() -> None:
    body = {"text": "Infinity", "n": 1.5, "x": [True, None, {}]}
    assert sent(body) == body
