"""POST /v1/completions: a text to continue."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import Discriminator, Field, Tag

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.common import Entries, Must, TokenArray, TokenId, declared, exactly
from qwen_server.api.bodies.sampling import Sampling, drop_idle_options, names_stop, needs_reference
from qwen_server.http.error_bodies import invalid

Tokens = Annotated[list[TokenId], TokenArray()]
_PROMPT = Must("be a string or a non-empty array of strings, of token ids, or of arrays of token ids, not a mixture")


def kind_of_prompt(prompt: Any) -> str:
    """The kind of the first entry counts, so that an error names the entry that differs."""
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    return {str: "=texts", list: "=arrays", int: "=tokens"}.get(type(first), "=text")


@declared
class CompletionRequest(Sampling, total=False):
    """A text, or several, to continue."""

    prompt: Required[
        Annotated[
            Annotated[str, _PROMPT, Tag("=text")]
            | Annotated[list[str], Entries(least=1), Tag("=texts")]
            | Annotated[Tokens, Tag("=tokens")]
            | Annotated[list[Tokens], Entries(least=1), Tag("=arrays")],
            Discriminator(kind_of_prompt),
            Field(description="a text, texts, token ids, or several of those"),
        ]
    ]
    logprobs: Annotated[
        int | None, Field(ge=0, le=20, description="log probabilities of the token and of so many others")
    ]
    echo: Annotated[bool | None, Field(description="return the prompt too; with max_tokens 0, only the prompt")]
    suffix: str | None
    best_of: Annotated[Annotated[Literal[1], exactly(int)] | None, Must("be 1")]


def completion(fields: dict[str, Any], default_tokens: int) -> Body:
    """A completion of checked `fields`. Raises HttpError 400."""
    drop_idle_options(fields)
    if fields.get("max_tokens") == 0 and not fields.get("echo"):
        raise invalid("max_tokens must be at least 1, unless echo is true", "max_tokens")
    fields.setdefault("max_tokens", default_tokens)
    prompt = fields["prompt"]
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    fast = not needs_reference(fields)
    return Body("completion", fields, prompts, fields.get("n", 1), fast, names_stop(fields))
