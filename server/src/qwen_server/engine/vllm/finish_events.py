"""Ends the streams of chats with tool calls as clients expect it.

OpenAI sends the finish reason in a chunk of its own. Its SDKs report a call as done at the first
chunk with a finish reason after the chunks of the call, and never if both share a chunk. vLLM sends
them together if the last step of the engine completed the call.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

_PREFIX = "data: "
# Quotes inside of a text are escaped, so that these match only the fields.
_CALLS, _UNFINISHED = '"tool_calls":[{', '"finish_reason":null'


async def finished_apart(source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """The events of a stream. No event has both tool calls and a finish reason."""
    async with aclosing(source):
        async for event in source:
            if _CALLS in event and _UNFINISHED not in event:
                for part in _parts(event):
                    yield part
            else:
                yield event


def _parts(event: str) -> Iterator[str]:
    chunk = json.loads(event.removeprefix(_PREFIX))
    choices = chunk["choices"]
    finished = [choice for choice in choices if choice.get("finish_reason") is not None]
    ends = [{"index": choice["index"], "delta": {}} | _ending(choice) for choice in finished]
    for choice in finished:
        choice.update(dict.fromkeys(_ending(choice)))
    for part in (choices, ends):
        yield _PREFIX + json.dumps(chunk | {"choices": part}, ensure_ascii=False, separators=(",", ":")) + "\n\n"


def _ending(choice: dict[str, object]) -> dict[str, object]:
    return {name: choice[name] for name in ("finish_reason", "stop_reason") if name in choice}
