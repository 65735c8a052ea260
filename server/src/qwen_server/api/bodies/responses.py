"""POST /v1/responses, OpenAI's newer API.

Nothing is stored between requests, so that what refers to an earlier one is refused; `store`, which
clients set because it is OpenAI's default, is ignored, as in vLLM.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Required

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from qwen_server.api.bodies.body import Body
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
    exactly,
    other_than,
)
from qwen_server.api.bodies.hosted_tools import log_left_out, not_run_here, take_out_choice
from qwen_server.api.bodies.sampling import IGNORED, Decoding, Temperature, TemplateKwargs
from qwen_server.http.error_bodies import invalid

WITHOUT_EFFECT: Final = frozenset({"store", "background", "prompt_cache_key", "safety_identifier", "stream_options"})
_TEXTS: Final = ("input_text", "output_text")
_TOOL_TYPES: Final = ("function", "custom", "namespace")  # all others are run by OpenAI's servers
_CHOICE_TYPES: Final = ("function", "custom", "allowed_tools")


@declared
class ItemText(TypedDict):
    """A part of an item's text."""

    type: Annotated[Literal["input_text", "output_text"], Must("be a string")]
    text: str


@declared
class OtherItemPart(TypedDict):
    """A part of an item that is not text. The engine decides which ones the model takes."""

    type: Annotated[str, other_than(*_TEXTS), Field(json_schema_extra={"not": {"enum": list(_TEXTS)}})]


ItemPart = Annotated[
    Annotated[ItemText, Tag("=text")] | Annotated[OtherItemPart, Tag("=other")],
    Field(union_mode="left_to_right"),
]


@declared
class ItemMessage(TypedDict, total=False):
    """A message of the conversation."""

    type: Annotated[Literal["message"], Must("be a string")]
    role: Required[str]
    content: Required[
        Annotated[
            Annotated[str, Must("be a string or a non-empty array of objects with a type"), Tag("=string")]
            | Annotated[list[ItemPart], Entries(MAX_VALUES, least=1), Tag("=array")],
            STRING_OR_ARRAY,
        ]
    ]


@declared
class FunctionTool(TypedDict):
    """A tool that the client runs."""

    type: Literal["function", "custom"]
    name: Name


@declared
class NamespaceTool(TypedDict):
    """Several tools under one name."""

    type: Literal["namespace"]
    tools: Annotated[list[Any], Entries(MAX_VALUES)]


@declared
class HostedTool(TypedDict):
    """A tool that OpenAI's servers run, such as web_search. It is left out."""

    type: Annotated[str, other_than(*_TOOL_TYPES), Field(json_schema_extra={"not": {"enum": list(_TOOL_TYPES)}})]


def _kind_of_tool(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind == "namespace":
        return "=namespace"
    return "=hosted" if isinstance(kind, str) and kind not in _TOOL_TYPES else "=function"


Tools = Annotated[
    list[
        Annotated[
            Annotated[FunctionTool, Tag("=function")]
            | Annotated[NamespaceTool, Tag("=namespace")]
            | Annotated[HostedTool, Tag("=hosted")],
            Discriminator(_kind_of_tool),
        ]
    ],
    Entries(MAX_VALUES),
]


@declared
class AdditionalTools(TypedDict):
    """Further tools, as an item of the conversation. They count like those in `tools`."""

    type: Literal["additional_tools"]
    tools: Tools


@declared
class OtherItem(TypedDict):
    """An item that is not a message: a function call, its output, a thought."""

    type: Annotated[
        str,
        other_than("message", "additional_tools"),
        Field(json_schema_extra={"not": {"enum": ["message", "additional_tools"]}}),
    ]


def _kind_of_item(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "additional_tools":
        return "=tools"
    return "=other" if isinstance(kind, str) and kind != "message" else "=message"


Item = Annotated[
    Annotated[ItemMessage, FEW_VALUES, Tag("=message")]
    | Annotated[OtherItem, FEW_VALUES, Tag("=other")]
    | Annotated[AdditionalTools, Tag("=tools")],
    Discriminator(_kind_of_item),
]
Input = Annotated[
    Annotated[list[Item], Entries(MAX_ENTRIES, least=1), Tag("=array")]
    | Annotated[str, Must("be a string or a non-empty array"), Tag("=string")],
    STRING_OR_ARRAY,
]
NotStored = Annotated[
    None,
    Must("be null: it needs stored responses, and this server stores none"),
    Field(description="not supported, because nothing is stored"),
]


@declared
class ResponsesRequest(Decoding, total=False):
    """A text or a conversation to answer. Unknown fields are ignored; `null` means the default."""

    input: Required[
        Annotated[
            Input,
            Field(description="a text, or the items of the conversation: messages, calls of functions, their outputs"),
        ]
    ]
    instructions: Annotated[str | None, Field(description="the system message")]
    max_output_tokens: Annotated[int | None, Field(description="the longest answer, in tokens")]
    max_tool_calls: Annotated[int | None, Field(ge=0, le=1 << 31)]
    temperature: Temperature
    text: Annotated[
        dict[str, Any] | None,
        Field(description="the format of the answer", examples=[{"format": {"type": "json_object"}}]),
    ]
    reasoning: Annotated[
        dict[str, Any] | None,
        Field(description="an effort other than none lets the model think", examples=[{"effort": "low"}]),
    ]
    include_reasoning: bool | None
    include: Annotated[Annotated[list[Any], Entries(16)] | None, Field(description="what else to return")]
    tools: Annotated[
        Tools | None,
        Field(description="functions, where the model's family has a parser; others are left out"),
    ]
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | Annotated[dict[str, Any], FEW_VALUES] | None,
        Must(f"be none, auto, required or an object of at most {MAX_VALUES} values"),
    ]
    parallel_tool_calls: bool | None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)]
    truncation: Annotated[Literal["auto", "disabled"] | None, Field(description="auto cuts a prompt that is too long")]
    chat_template_kwargs: TemplateKwargs
    metadata: Annotated[
        Annotated[dict[str, str], Entries(16)] | None,
        Must("be an object of at most 16 strings", "be a string"),
        Field(description="returned as it is"),
    ]
    user: str | None
    service_tier: str | None
    store: Annotated[bool | None, Field(description="accepted and ignored: nothing is stored")]
    prompt_cache_key: Annotated[str | None, IGNORED]
    safety_identifier: Annotated[str | None, IGNORED]
    stream_options: Annotated[dict[str, Any] | None, IGNORED]
    background: Annotated[
        Annotated[Literal[False], exactly(bool)] | None,
        Must("be false: it needs stored responses, and this server stores none"),
        Field(description="not supported, because nothing is stored"),
    ]
    previous_response_id: NotStored
    conversation: NotStored
    prompt: NotStored


def response(fields: dict[str, Any], default_tokens: int) -> Body:
    """A request for a response of checked `fields`. Raises HttpError 400."""
    if isinstance(fields["input"], list):
        check_parts("input", fields["input"])
    fields.setdefault("max_output_tokens", default_tokens)
    _gather_tools(fields)
    _check_choice(fields)
    return Body("responses", fields)


def _gather_tools(fields: dict[str, Any]) -> None:
    """Moves the tools among the items to `tools`, without those that do not run here."""
    tools = fields.pop("tools", [])
    if not isinstance(fields["input"], str):
        added = [item["tools"] for item in fields["input"] if item.get("type") == "additional_tools"]
        if added:
            fields["input"] = [item for item in fields["input"] if item.get("type") != "additional_tools"]
            tools = _without_repetition([*tools, *(tool for each in added for tool in each)])
        if not fields["input"]:
            raise invalid("input holds nothing but tools", "input")
        if len(tools) > MAX_VALUES:
            raise invalid(f"input and tools hold {len(tools)} tools, the limit is {MAX_VALUES}", "input")
    kept = [tool for tool in tools if tool["type"] in _TOOL_TYPES]
    log_left_out(tool["type"] for tool in tools if tool["type"] not in _TOOL_TYPES)
    if kept:
        fields["tools"] = kept


def _without_repetition(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools by type and name.

    The last of each counts, because a conversation may repeat them in each of its turns.
    """
    return list({(tool["type"], str(tool.get("name"))): tool for tool in tools}.values())


def _check_choice(fields: dict[str, Any]) -> None:
    choice = fields.get("tool_choice")
    if isinstance(choice, dict):
        _require_run_here(choice, "tool_choice", _CHOICE_TYPES)
        allowed = choice.get("tools")
        if choice.get("type") == "allowed_tools" and isinstance(allowed, list):
            for index, tool in enumerate(allowed):
                _require_run_here(tool, f"tool_choice.tools[{index}]", _TOOL_TYPES)
    if "tools" not in fields:
        take_out_choice(fields, needs_tools=choice not in ("auto", "none"))


def _require_run_here(named: Any, place: str, types: tuple[str, ...]) -> None:
    kind = named.get("type") if isinstance(named, dict) else None
    if isinstance(kind, str) and kind not in types:
        raise not_run_here(kind, f"{place}.type")
