"""Requests of vLLM's own models that report one wrong item of a long list, and not all of them.

Each item of a conversation is compared with some thirty kinds: listing what is wrong with 4,096 of them takes vLLM's
models 16 to 25 s. Without this patch they do, in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, FailFast
from vllm.entrypoints.openai.responses import protocol
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from qwen_server.config.patches import Patch, absent


def _missing() -> Iterator[str]:
    yield from absent(protocol, "ResponseInputOutputItem", "_default_input_image_details")


FIRST_BAD_ITEM: Final = Patch(
    name="first-bad-item",
    gains="a wrong conversation of 4,096 items is refused after 0.1 s instead of 16 to 25",
    relies_on="the types of the items in vLLM's ResponsesRequest, and the validator it puts in front of them",
    missing=_missing,
)


def conversation_request() -> type[ResponsesRequest]:
    """vLLM's model of a request whose input is a list, made to stop at the first wrong item."""
    item: Any = Annotated[protocol.ResponseInputOutputItem, BeforeValidator(protocol._default_input_image_details)]  # noqa: SLF001

    class Conversation(ResponsesRequest):
        input: Annotated[list[item], FailFast()]

    return Conversation
