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
    Entries,
    Must,
    declared,
    exactly,
    other_than,
)
from qwen_server.api.bodies.sampling import IGNORED, Decoding, Temperature, TemplateKwargs, drop_empty_tools

WITHOUT_EFFECT: Final = frozenset({"store", "background", "prompt_cache_key", "safety_identifier", "stream_options"})
_TEXTS: Final = ("input_text", "output_text")
_TOOL_TYPES: Final = ("function", "custom", "namespace")  # all others are run by OpenAI's servers


@declared
class ItemText(TypedDict):
    """A part of an item's text."""

    type: Literal["input_text", "output_text"]
    text: str


@declared
class OtherItemPart(TypedDict):
    """A part of an item that is not text. The engine decides which ones the model takes."""

    type: Annotated[str, other_than(*_TEXTS), Field(json_schema_extra={"not": {"enum": list(_TEXTS)}})]


@declared
class ItemMessage(TypedDict, total=False):
    """A message of the conversation."""

    type: Annotated[Literal["message"], Must("be a string")]
    role: Required[str]
    content: Required[
        Annotated[
            str
            | Annotated[
                list[Annotated[ItemText | OtherItemPart, Field(union_mode="left_to_right")]],
                Entries(MAX_VALUES, least=1),
            ],
            Must("be a string, or a non-empty array of objects with a type (and a text, where it is a type of text)"),
        ]
    ]


@declared
class OtherItem(TypedDict):
    """An item that is not a message: a function call, its output, a thought."""

    type: Annotated[str, other_than("message"), Field(json_schema_extra={"not": {"const": "message"}})]


Item = Annotated[
    Annotated[ItemMessage, Tag("=message")] | Annotated[OtherItem, Tag("=other")],
    Field(union_mode="left_to_right"),
    FEW_VALUES,
]
Input = Annotated[
    Annotated[list[Item], Entries(MAX_ENTRIES, least=1), Tag("=items")]
    | Annotated[str, Must("be a string or a non-empty array"), Tag("=text")],
    Discriminator(lambda given: "=items" if isinstance(given, list) else "=text"),
]


@declared
class FunctionTool(TypedDict):
    """A tool that the client runs."""

    type: Literal["function", "custom"]


@declared
class NamespaceTool(TypedDict):
    """Several tools under one name."""

    type: Literal["namespace"]
    tools: Annotated[list[Any], Entries(MAX_VALUES)]


def _kind_of_tool(tool: Any) -> str:
    return "=namespace" if isinstance(tool, dict) and tool.get("type") == "namespace" else "=function"


Tools = Annotated[
    list[
        Annotated[
            Annotated[
                FunctionTool,
                Must(f"be an object whose type is one of {', '.join(_TOOL_TYPES)}: no other tool is run here"),
                Tag("=function"),
            ]
            | Annotated[NamespaceTool, Tag("=namespace")],
            Discriminator(_kind_of_tool),
        ]
    ],
    Entries(MAX_VALUES),
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
    tools: Annotated[Tools | None, Field(description="functions, where the model's family has a parser")]
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
        Must("be an object of at most 16 strings"),
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
    """A request for a response of checked `fields`."""
    drop_empty_tools(fields)
    fields.setdefault("max_output_tokens", default_tokens)
    return Body("responses", fields)
