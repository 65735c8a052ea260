"""OpenAI's Responses API over vLLM's own serving code.

Nothing is stored, so each request must be complete.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, get_args, get_origin

from openai.types.responses import ResponseIncompleteEvent
from pydantic import FailFast, ValidationError, create_model
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest, ResponsesResponse
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses

from qwen_server.engine.base import InvalidRequestError, Kind
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.serving_objects import Api
from qwen_server.engine.vllm.tool_calls import whole_calls

# vLLM sends these events before it calls the engine. They are held back, so that a refusal can
# still be an HTTP error.
_OPENING = ("response.created", "response.in_progress")


def responses_api(parts: Parts) -> dict[Kind, Api]:
    """Builds the serving object."""
    serving = OpenAIServingResponses(parts.client, parts.models, **parts.serving_options)
    # Even if the environment enables it: vLLM's store grows without limit.
    serving.enable_store = False
    serving.parser = whole_calls(serving.parser)
    conversation = conversation_request()

    def request(body: dict[str, Any], request_id: str) -> ResponsesRequest:
        ours = {"request_id": request_id, "store": False, "input": _items(body["input"])}
        model = ResponsesRequest if isinstance(body["input"], str) else conversation
        try:
            return model.model_validate(body | ours)
        except ValidationError as error:
            raise _of_item(error) or error from error

    names = {"response_format": "text"}
    return {"responses": Api("input", request, serving.create_responses, events=_events, names=names, slow=True)}


def conversation_request() -> type[ResponsesRequest]:
    """vLLM's model of a request with a list as input. Validation stops at the first invalid item.

    Each item is compared with about thirty types. vLLM's own model takes 16 to 25 s to list the
    errors of 4,096 items.
    """
    kinds = get_args(ResponsesRequest.model_fields["input"].annotation)
    (items,) = (kind for kind in kinds if get_origin(kind) is list)
    made: type[ResponsesRequest] = create_model(
        "Conversation", __base__=ResponsesRequest, input=(Annotated[items, FailFast()], ...)
    )
    return made


def _items(given: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The input with the type of each message. Clients may omit the type, but vLLM needs it."""
    if isinstance(given, str):
        return given
    return [{"type": "message"} | item if "role" in item else item for item in given]


def _of_item(error: ValidationError) -> InvalidRequestError | None:
    """Names the invalid item of the input.

    pydantic lists the errors for each of about thirty types, so its text would not help.
    """
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        if detail["loc"][0] != "input":
            return None
        index = next((part for part in detail["loc"] if isinstance(part, int)), None)
        if index is not None:
            place = f"input[{index}]"
            return InvalidRequestError(
                f"{place} is not valid: its type, or a field of that type, is wrong", param=place
            )
    return None


class _IncompleteEvent(ResponseIncompleteEvent):
    """The end of an answer that was cut. vLLM names it like that of a complete one."""

    response: ResponsesResponse  # as in vLLM's other events


async def _events(source: AsyncGenerator[Any, None]) -> AsyncGenerator[str, None]:
    """Yields typed server-sent events."""
    held: list[str] = []
    async with aclosing(source):
        async for event in source:
            text = _written(event)
            if event.type in _OPENING:
                held.append(text)
                continue
            for opening in held:
                yield opening
            held.clear()
            yield text


def _written(event: Any) -> str:
    if event.type == "response.completed" and event.response.status == "incomplete":
        event = _IncompleteEvent.model_construct(
            type="response.incomplete", response=event.response, sequence_number=event.sequence_number
        )
    return f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n"
