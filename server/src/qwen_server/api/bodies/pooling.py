"""Texts to embed, rerank, score or classify, in the fields of OpenAI's, Jina's and vLLM's APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Required

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.common import STRING_OR_ARRAY, Entries, Int31, Int64, Must, declared
from qwen_server.api.bodies.completion import Tokens, kind_of_prompt
from qwen_server.api.bodies.sampling import IGNORED, CacheSalt, ModelName, TemplateKwargs
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import invalid

WITHOUT_EFFECT: Final = frozenset({"user"})
_MAX_CHARACTERS: Final = 1 << 20  # takes seconds of the thread that tokenizes all prompts

_IS_TEXT: Final = f"be a string of 1 to {_MAX_CHARACTERS} characters"
Text = Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS)]
_INPUT: Final = Must(
    f"{_IS_TEXT}, or a non-empty array of such strings, of token ids, or of arrays of token ids, not a mixture"
)
Inputs = Annotated[
    Annotated[Text, _INPUT, Tag("=text")]
    | Annotated[list[Annotated[Text, Must(_IS_TEXT)]], Entries(least=1), Tag("=texts")]
    | Annotated[Tokens, Tag("=tokens")]
    | Annotated[list[Tokens], Entries(least=1), Tag("=arrays")],
    Discriminator(kind_of_prompt),
    Field(description="a text, texts, token ids, or several of those"),
]
# May be empty, as a chunk of a document may be: a reranker's template has more than the text.
_IS_PART: Final = f"be a string of at most {_MAX_CHARACTERS} characters"
Part = Annotated[str, Field(max_length=_MAX_CHARACTERS)]
Texts = Annotated[
    Annotated[Part, Must(f"{_IS_PART} or an array of those"), Tag("=string")]
    | Annotated[list[Annotated[Part, Must(_IS_PART)]], Entries(least=1), Tag("=array")],
    STRING_OR_ARRAY,
    Field(description="a text, or several"),
]
Encoding = Annotated[
    Literal["float", "base64"] | None, Field(description="numbers, or the base64 of float32 numbers, which is shorter")
]


@declared
class Pooled(TypedDict, total=False):
    """What these requests have in common."""

    model: ModelName
    truncate_prompt_tokens: Annotated[
        Int31 | None, Field(description="keep only so many tokens of each input; -1: as many as the model takes")
    ]
    truncation_side: Annotated[
        Literal["left", "right"] | None, Field(description="where tokens are removed; left by default")
    ]
    use_activation: Annotated[bool | None, Field(description="normalize the output; true by default")]
    priority: Annotated[Int64 | None, Field(description="lower is earlier, where the engine schedules by priority")]
    cache_salt: CacheSalt
    user: Annotated[str | None, IGNORED]


@declared
class PoolingRequest(Pooled, total=False):
    """Texts, each of which the model reads on its own."""

    input: Required[Inputs]
    encoding_format: Encoding
    add_special_tokens: Annotated[bool | None, Field(description="add the tokenizer's special tokens; true by default")]


@declared
class EmbeddingsRequest(PoolingRequest, total=False):
    """Texts to embed."""

    dimensions: Annotated[
        int | None, Field(ge=1, le=1 << 20, description="cut embeddings to so many numbers, if the model allows it")
    ]


@declared
class ClassifyRequest(Pooled, total=False):
    """Texts to classify."""

    input: Required[Inputs]
    add_special_tokens: Annotated[bool | None, Field(description="add the tokenizer's special tokens; true by default")]


@declared
class Pairs(Pooled, total=False):
    """Pairs of texts."""

    max_tokens_per_query: Annotated[int | None, Field(ge=0, le=1 << 31, description="cut each query; 0: do not")]
    max_tokens_per_doc: Annotated[int | None, Field(ge=0, le=1 << 31, description="cut each document; 0: do not")]
    instruction: Annotated[
        Annotated[str, Field(max_length=1 << 16)] | None, Field(description="the task, for rerankers that take one")
    ]
    chat_template_kwargs: TemplateKwargs


@declared
class RerankRequest(Pairs, total=False):
    """A query, and the documents to order by their relevance to it."""

    query: Required[Annotated[Part, Must(_IS_PART)]]
    documents: Required[Texts]
    top_n: Annotated[int | None, Field(ge=0, le=1 << 31, description="return only so many documents; 0: all")]


@declared
class ScoreDocuments(Pairs, total=False):
    """Queries and documents to compare: one query with each document, or in pairs."""

    queries: Required[Texts]
    documents: Required[Texts]
    text_1: None
    text_2: None


@declared
class ScoreTexts(Pairs, total=False):
    """The same under the older names."""

    text_1: Required[Texts]
    text_2: Required[Texts]
    queries: None
    documents: None


ScoreRequest = Annotated[ScoreDocuments | ScoreTexts, Field(description="Two texts, or lists of them.")]


def which_score(given: Mapping[str, Any]) -> type[ScoreDocuments | ScoreTexts]:
    """The declaration of a body for /score."""
    return ScoreTexts if given.get("text_1") is not None or given.get("text_2") is not None else ScoreDocuments


def pooled(kind: Kind, fields: dict[str, Any]) -> Body:
    """Inputs of checked `fields`, each of which is one sequence."""
    return Body(kind, fields, _count(fields["input"]))


def rerank(fields: dict[str, Any], _: int) -> Body:
    """A query and documents of checked `fields`."""
    return Body("rerank", fields, _count(fields["documents"]))


def score(fields: dict[str, Any], _: int) -> Body:
    """Pairs of checked `fields`. Raises HttpError 400 if their numbers do not fit."""
    first, second = ("text_1", "text_2") if "text_1" in fields else ("queries", "documents")
    queries, documents = _count(fields[first]), _count(fields[second])
    if queries not in (1, documents):
        text = f"{first} must be one text, or as many as {second} ({documents}), not {queries}"
        raise invalid(text, first)
    return Body("score", fields, documents)


def _count(inputs: Any) -> int:
    return len(inputs) if isinstance(inputs, list) and not isinstance(inputs[0], int) else 1
