"""POST /tokenize and /detokenize, as vLLM's server has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Required

from pydantic import Field
from typing_extensions import TypedDict

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.chat import Messages
from qwen_server.api.bodies.common import MAX_VALUES, Entries, Must, TokenArray, TokenId, check_parts, declared
from qwen_server.api.bodies.sampling import ModelName, TemplateKwargs, drop_empty_tools
from qwen_server.http.error_bodies import invalid

_MAX_TOKENS = 1 << 18  # more than fit any model's context
_MAX_CHARACTERS = 1 << 20  # takes seconds of the thread that tokenizes all prompts


@declared
class TokenizeText(TypedDict, total=False):
    """A text."""

    prompt: Required[
        Annotated[
            Annotated[str, Field(max_length=_MAX_CHARACTERS)],
            Must(f"be a string of at most {_MAX_CHARACTERS} characters"),
            Field(description="a text"),
        ]
    ]
    messages: None
    model: ModelName
    add_special_tokens: bool | None
    return_token_strs: Annotated[bool | None, Field(description="return the tokens' texts too")]


@declared
class TokenizeChat(TypedDict, total=False):
    """A conversation."""

    messages: Required[Annotated[Messages, Field(description="a conversation")]]
    prompt: None
    model: ModelName
    add_special_tokens: bool | None
    return_token_strs: Annotated[bool | None, Field(description="return the tokens' texts too")]
    add_generation_prompt: Annotated[bool | None, Field(description="true by default")]
    continue_final_message: Annotated[bool | None, Field(description="go on with the last message")]
    chat_template_kwargs: TemplateKwargs
    tools: Annotated[list[dict[str, Any]], Entries(MAX_VALUES)] | None


TokenizeRequest = Annotated[TokenizeText | TokenizeChat, Field(description="A text or a conversation: one of the two.")]


@declared
class DetokenizeRequest(TypedDict, total=False):
    """Token ids."""

    tokens: Required[Annotated[list[TokenId], TokenArray(_MAX_TOKENS)]]
    model: ModelName


def which(given: Mapping[str, Any]) -> type[TokenizeText | TokenizeChat]:
    """The declaration of a body for /tokenize.

    Raises HttpError 400 unless it is one of the two.
    """
    chat = given.get("messages") is not None
    if chat == (given.get("prompt") is not None):
        raise invalid("either prompt or messages is required, not both", "prompt")
    return TokenizeChat if chat else TokenizeText


def tokenize(fields: dict[str, Any], _: int) -> Body:
    """A text or a conversation of checked `fields`."""
    check_parts("messages", fields.get("messages", ()))
    drop_empty_tools(fields)
    return Body("tokenize", fields)


def detokenize(fields: dict[str, Any], _: int) -> Body:
    """Token ids of checked `fields`."""
    return Body("detokenize", fields)
