"""The answers of /v1/embeddings, /pooling, /v1/rerank, /score and /classify."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Open

_Index = Annotated[int, Field(ge=0, description="the place of the input in the request")]


class PoolingUsage(Open):
    """The tokens of all inputs."""

    prompt_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class Embedding(Open):
    """The embedding of one text."""

    object: Literal["embedding"]
    index: _Index
    embedding: list[float] | str = Field(description="numbers, or with base64 the bytes of float32 numbers")


class EmbeddingsAnswer(Open):
    """The embeddings, in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Embedding]
    usage: PoolingUsage


class Pooled(Open):
    """What the pooler gives for one text."""

    object: Literal["pooling"]
    index: _Index
    data: list[float] | list[list[float]] | str


class PoolingAnswer(Open):
    """The outputs, in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Pooled]
    usage: PoolingUsage


class RankedDocument(Open):
    """The text of a document."""

    text: str | None


class Ranked(Open):
    """One document and its relevance."""

    index: _Index
    document: RankedDocument
    relevance_score: float


class RerankAnswer(Open):
    """The documents, the most relevant first."""

    id: str
    model: str
    results: list[Ranked]
    usage: PoolingUsage


class Score(Open):
    """The score of one pair."""

    object: Literal["score"]
    index: _Index
    score: float


class ScoreAnswer(Open):
    """The scores, in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: PoolingUsage


class Classified(Open):
    """The class of one text."""

    index: _Index
    label: str | None = Field(description="the most probable class, by the model's names")
    probs: list[float] = Field(description="the probability of each class")
    num_classes: int = Field(ge=1)


class ClassifyAnswer(Open):
    """The classes, in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Classified]
    usage: PoolingUsage
