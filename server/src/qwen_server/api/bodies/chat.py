"""POST /v1/chat/completions: a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Required

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.common import (
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
from qwen_server.api.bodies.sampling import (
    Sampling,
    TemplateKwargs,
    drop_empty_tools,
    drop_idle_options,
    names_stop,
    needs_reference,
)
from qwen_server.http.error_bodies import invalid


@declared
class TextPart(TypedDict):
    """A part of a message's text."""

    type: Annotated[Literal["text"], Must("be a string")]
    text: str


@declared
class OtherPart(TypedDict):
    """A part of a message that is not text. The engine decides which ones the model takes."""

    type: Annotated[str, other_than("text"), Field(json_schema_extra={"not": {"const": "text"}})]


_SILENT: Final = ("assistant", "tool", "function")
Part = Annotated[
    Annotated[TextPart, Tag("=text")] | Annotated[OtherPart, Tag("=other")],
    Field(union_mode="left_to_right"),
]
Content = Annotated[
    Annotated[str, Must("be a string or an array of objects with a type"), Tag("=string")]
    | Annotated[list[Part], Entries(), Tag("=array")],
    STRING_OR_ARRAY,
    Field(description="the text, or its parts"),
]


@declared
class CalledFunction(TypedDict):
    """What the model called in an earlier answer."""

    name: Name
    arguments: str


@declared
class ToolCall(TypedDict):
    """A call of an earlier answer, as the client sends it back."""

    function: CalledFunction


ToolCalls = Annotated[list[ToolCall], Entries()]
Thought = Annotated[str | None, Field(description="the thought of an earlier answer, under either name")]


@declared
class Message(TypedDict, total=False):
    """A message of the conversation."""

    role: Required[Annotated[str, Field(description="system, user, assistant or tool", examples=["user"])]]
    content: Required[Content]
    name: str | None
    tool_calls: ToolCalls | None
    reasoning: Thought
    reasoning_content: Thought


@declared
class SilentMessage(TypedDict, total=False):
    """A message of the model or of a tool that has no text."""

    role: Required[Literal["assistant", "tool", "function"]]
    content: None
    name: str | None
    tool_calls: ToolCalls | None
    reasoning: Thought
    reasoning_content: Thought


@declared
class CallingMessage(TypedDict, total=False):
    """A message that has calls of tools instead of a text."""

    role: Required[str]
    content: None
    name: str | None
    tool_calls: Required[Annotated[list[ToolCall], Entries(least=1)]]
    reasoning: Thought
    reasoning_content: Thought


def _kind_of_message(message: Any) -> str:
    """Chooses the kind of a message, which costs less than trying each kind in turn."""
    try:
        if message["content"] is not None:
            return "=message"
    except (KeyError, TypeError):
        pass
    if isinstance(message, dict):
        if message.get("tool_calls"):
            return "=calling"
        if message.get("role") in _SILENT:
            return "=silent"
    return "=message"


Messages = Annotated[
    list[
        Annotated[
            Annotated[Message, Tag("=message")]
            | Annotated[SilentMessage, Tag("=silent")]
            | Annotated[CallingMessage, Tag("=calling")],
            Discriminator(_kind_of_message),
        ]
    ],
    Entries(MAX_ENTRIES, least=1),
]


@declared
class Function(TypedDict, total=False):
    """A function that the model may call.

    Its parameters are a JSON Schema, which the engine checks.
    """

    name: Required[Name]
    parameters: dict[str, Any] | None


@declared
class Tool(TypedDict):
    """A tool that the model may call."""

    function: Function


@declared
class ImageSize(TypedDict, total=False):
    """How many pixels of an image the model sees; it is scaled to that before."""

    min_pixels: Annotated[int | None, Field(ge=1, description="scale smaller images up")]
    max_pixels: Annotated[int | None, Field(ge=1, description="scale larger images down")]


def _only_sizes(given: Any) -> Any:
    """Refuses what else vLLM would hand to the model's processor: it bounds none of it."""
    if isinstance(given, dict) and (others := given.keys() - ImageSize.__annotations__.keys()):
        text = "must not hold {name}; a request can set min_pixels and max_pixels"
        raise PydanticCustomError("refused", text, {"name": min(others)})
    return given


def _in_order(given: ImageSize) -> ImageSize:
    least, most = given.get("min_pixels"), given.get("max_pixels")
    if least is not None and most is not None and least > most:
        raise PydanticCustomError("refused", "must have a min_pixels of at most its max_pixels")
    return given


@declared
class ChatRequest(Sampling, total=False):
    """A conversation to answer."""

    messages: Required[Annotated[Messages, Field(description="对话消息列表 (the conversation)")]]
    max_completion_tokens: Annotated[int | None, Field(description="OpenAI's newer name of max_tokens")]
    logprobs: Annotated[bool | None, Field(description="return the log probabilities of the tokens")]
    top_logprobs: Annotated[int | None, Field(ge=0, le=20, description="of so many alternatives; needs logprobs")]
    tools: Annotated[
        Annotated[list[Tool], Entries(MAX_VALUES)] | None,
        Field(description="functions, where the model's family has a parser"),
    ]
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | dict[str, Any] | None, Must("be none, auto, required or an object")
    ]
    parallel_tool_calls: bool | None
    reasoning_effort: Annotated[str | None, Field(description="such as low, where the model thinks")]
    include_reasoning: Annotated[bool | None, Field(description="return the thoughts; true by default")]
    thinking_token_budget: Annotated[
        int | None, Field(ge=-1, le=1 << 31, description="the longest thought, in tokens; -1: any")
    ]
    chat_template_kwargs: TemplateKwargs
    add_generation_prompt: Annotated[bool | None, Field(description="begin the model's message; true by default")]
    continue_final_message: Annotated[bool | None, Field(description="go on with the last message")]
    documents: Annotated[list[Any] | None, Field(description="documents for the template")]
    mm_processor_kwargs: Annotated[
        Annotated[ImageSize, BeforeValidator(_only_sizes), AfterValidator(_in_order)] | None,
        Field(description="how large the model sees the images, where it reads them"),
    ]
    echo: Annotated[bool | None, Field(description="return the last message too, if it has the model's role")]
    return_prompt_text: Annotated[bool | None, Field(description="return the rendered prompt too")]


def chat(fields: dict[str, Any], default_tokens: int) -> Body:
    """A chat of checked `fields`. Raises HttpError 400."""
    check_parts("messages", fields["messages"])
    drop_idle_options(fields)
    drop_empty_tools(fields)
    if fields.get("top_logprobs") and not fields.get("logprobs"):
        raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
    if "max_completion_tokens" not in fields:
        fields.setdefault("max_tokens", default_tokens)
    fast = not needs_reference(fields)
    return Body("chat", fields, 1, fields.get("n", 1), fast, names_stop(fields))
