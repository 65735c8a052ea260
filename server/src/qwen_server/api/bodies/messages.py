"""POST /v1/messages and /v1/messages/count_tokens, Anthropic's API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Required

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.chat import Content
from qwen_server.api.bodies.common import (
    FEW_VALUES,
    MAX_ENTRIES,
    MAX_VALUES,
    STRING_OR_ARRAY,
    Entries,
    Must,
    Name,
    check_parts,
    declared,
    other_than,
)
from qwen_server.api.bodies.hosted_tools import log_left_out, not_run_here, take_out_choice
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
)
from qwen_server.http.error_bodies import invalid

WITHOUT_EFFECT: Final = frozenset({"metadata", "service_tier"})


@declared
class AnthropicMessage(TypedDict):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[Content, Field(description="the text, or its blocks")]


@declared
class SystemBlock(TypedDict, total=False):
    """A part of the system message. Only its text counts."""

    type: Required[str]
    text: str


@declared
class ClientTool(TypedDict, total=False):
    """A tool that the client runs."""

    type: Literal["custom"] | None
    name: Required[Name]
    input_schema: Required[dict[str, Any]]


@declared
class ServerTool(TypedDict):
    """A tool of Anthropic's, such as web_search_20250305. It is left out."""

    type: Annotated[str, other_than("custom"), Field(json_schema_extra={"not": {"const": "custom"}})]


def _is_servers(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind != "custom"


AnthropicTool = Annotated[
    Annotated[ClientTool, Tag("=client")] | Annotated[ServerTool, Tag("=server")],
    Discriminator(lambda tool: "=server" if _is_servers(tool) else "=client"),
]


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
        Annotated[
            Annotated[str, Must("be a string or an array of objects with a type"), Tag("=string")]
            | Annotated[list[SystemBlock], Entries(MAX_VALUES), FEW_VALUES, Tag("=array")],
            STRING_OR_ARRAY,
        ]
        | None,
        Field(description="the system message"),
    ]
    tools: Annotated[
        Annotated[list[AnthropicTool], Entries(MAX_VALUES)] | None,
        Field(description="functions, where the model's family has a parser; others are left out"),
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
        Must("be an array of strings, each of 1 to 1024 characters", "be a string of 1 to 1024 characters"),
        Field(description="strings that end the answer"),
    ]
    stream: Stream
    cache_salt: CacheSalt
    metadata: Annotated[dict[str, Any] | None, IGNORED]
    service_tier: Annotated[str | None, IGNORED]


def message(fields: dict[str, Any], _: int) -> Body:
    """A message request of checked `fields`. Anthropic's API has no default for `max_tokens`.

    Raises HttpError 400.
    """
    _check_blocks(fields["messages"])
    _take_out_server_tools(fields)
    return Body("messages", fields)


def _check_blocks(messages: list[dict[str, Any]]) -> None:
    """Raises HttpError 400 for too many blocks, and for an image that vLLM would leave out."""
    check_parts("messages", messages)
    for place, block in _blocks(messages):
        if block.get("type") == "image" and not _has_image(block.get("source")):
            text = f"{place}.source must be an object with the data of an image, or of the type url with its url"
            raise invalid(text, f"{place}.source")


def _blocks(messages: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The blocks of a conversation with their places, and those in the results of tools."""
    for number, message in enumerate(messages):
        content = message["content"]
        for index, block in enumerate(content if isinstance(content, list) else ()):
            place = f"messages[{number}].content[{index}]"
            yield place, block
            inner = block.get("content") if block["type"] == "tool_result" else None
            for position, part in enumerate(inner if isinstance(inner, list) else ()):
                if isinstance(part, dict):
                    yield f"{place}.content[{position}]", part


def _has_image(source: Any) -> bool:
    if not isinstance(source, dict):
        return False
    found = source.get("url" if source.get("type") == "url" else "data")
    return isinstance(found, str) and bool(found)


def _adds_tools(messages: list[dict[str, Any]]) -> bool:
    """Whether system messages among `messages` declare tools."""
    contents = (message["content"] for message in messages if message["role"] == "system")
    return any(block["type"] == "tool_addition" for blocks in contents if isinstance(blocks, list) for block in blocks)


def count_tokens(fields: dict[str, Any], _: int) -> Body:
    """A request for the number of tokens of a prompt, of checked `fields`. Raises HttpError 400."""
    _check_blocks(fields["messages"])
    _take_out_server_tools(fields)
    return Body("count_tokens", fields)


def _take_out_server_tools(fields: dict[str, Any]) -> None:
    """Removes the tools that do not run here. Without tools, `tools` is removed, too."""
    tools = fields.pop("tools", [])
    kept = [tool for tool in tools if not _is_servers(tool)]
    left_out = {str(tool.get("name")): tool["type"] for tool in tools if _is_servers(tool)}
    log_left_out(left_out.values())
    if kept:
        fields["tools"] = kept
    choice = fields.get("tool_choice", {})
    name = str(choice.get("name"))
    if choice.get("type") == "tool" and name in left_out:
        raise not_run_here(left_out[name], "tool_choice.name")
    if not kept and not _adds_tools(fields["messages"]):
        take_out_choice(fields, needs_tools=choice.get("type") not in ("auto", "none"))
