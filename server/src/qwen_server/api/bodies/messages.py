"""POST /v1/messages and /v1/messages/count_tokens, Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.chat import Content
from qwen_server.api.bodies.common import FEW_VALUES, MAX_ENTRIES, MAX_VALUES, Entries, Must, declared
from qwen_server.api.bodies.sampling import (
    IGNORED,
    CacheSalt,
    ModelName,
    StopTexts,
    Stream,
    Temperature,
    TemplateKwargs,
    TopK,
    TopP,
    drop_empty_tools,
)
from qwen_server.http.error_bodies import invalid

WITHOUT_EFFECT: Final = frozenset({"metadata", "service_tier"})


@declared
class AnthropicMessage(TypedDict):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[Content, Field(description="the text, or its blocks")]


@declared
class CountTokensRequest(TypedDict, total=False):
    """A conversation whose tokens are to be counted."""

    messages: Required[
        Annotated[
            list[Annotated[AnthropicMessage, FEW_VALUES]],
            Entries(MAX_ENTRIES, least=1),
            Field(description="the conversation"),
        ]
    ]
    model: ModelName
    system: Annotated[
        str | Annotated[list[dict[str, Any]], Entries(MAX_VALUES), FEW_VALUES] | None,
        Must(f"be a string or an array of objects with at most {MAX_VALUES} values"),
        Field(description="the system message"),
    ]
    tools: Annotated[
        Annotated[list[dict[str, Any]], Entries(MAX_VALUES)] | None,
        Field(description="functions, where the model's family has a parser"),
    ]
    tool_choice: Annotated[dict[str, Any] | None, Field(examples=[{"type": "auto"}])]
    thinking: Annotated[
        dict[str, Any] | None,
        Field(description="off unless its type is enabled; the budget must be below max_tokens"),
    ]
    output_config: Annotated[dict[str, Any] | None, Field(description="the format of the answer, and the effort")]
    chat_template_kwargs: TemplateKwargs


@declared
class MessagesRequest(CountTokensRequest, total=False):
    """A conversation to answer. Unknown fields are ignored; `null` means the default."""

    max_tokens: Required[Annotated[int, Field(description="the longest answer, in tokens")]]
    temperature: Temperature
    top_p: TopP
    top_k: TopK
    stop_sequences: Annotated[
        StopTexts | None,
        Must("be an array of strings, each of 1 to 1024 characters"),
        Field(description="strings that end the answer"),
    ]
    stream: Stream
    cache_salt: CacheSalt
    metadata: Annotated[dict[str, Any] | None, IGNORED]
    service_tier: Annotated[str | None, IGNORED]


def message(fields: dict[str, Any], _: int) -> Body:
    """A message request of checked `fields`. Raises HttpError 400.

    Anthropic's API has no default for `max_tokens`.
    """
    drop_empty_tools(fields)
    forces = fields.get("tool_choice", {}).get("type") in ("any", "tool")
    if forces and "tools" not in fields and not _adds_tools(fields["messages"]):
        raise invalid("tool_choice needs tools", "tool_choice")
    return Body("messages", fields)


def _adds_tools(messages: list[dict[str, Any]]) -> bool:
    """Whether system messages among `messages` declare tools."""
    contents = (message["content"] for message in messages if message["role"] == "system")
    return any(block["type"] == "tool_addition" for blocks in contents if isinstance(blocks, list) for block in blocks)


def count_tokens(fields: dict[str, Any], _: int) -> Body:
    """A request for the number of tokens of a prompt, of checked `fields`."""
    drop_empty_tools(fields)
    return Body("count_tokens", fields)
