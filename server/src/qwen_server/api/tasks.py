"""Which paths a server answers. This follows from what its model is for, the setting `task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from qwen_server.config.values import Task
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError, client_error

# The paths that only some tasks have. All others are the same on every server.
_PATHS: Final[Mapping[Kind, str]] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "embeddings": "/v1/embeddings",
    "pooling": "/pooling",
    "score": "/score",
    "rerank": "/v1/rerank",
    "classify": "/classify",
}
_SERVED: Final[Mapping[Task, tuple[Kind, ...]]] = {
    "generate": ("chat", "completion", "responses", "messages", "count_tokens"),
    "embed": ("embeddings", "pooling", "score", "rerank"),
    "rerank": ("rerank", "score", "pooling"),
    "classify": ("classify", "pooling"),
}
_VERBS: Final[Mapping[Task, str]] = {
    "generate": "generates text",
    "embed": "embeds texts",
    "rerank": "reranks texts",
    "classify": "classifies texts",
}


def serves(task: Task, kind: Kind) -> bool:
    """Whether a server for `task` answers requests of `kind`."""
    return kind not in _PATHS or kind in _SERVED[task]


def paths_of_others(task: Task) -> frozenset[str]:
    """The paths that a server for `task` answers with 404, as the API's description names them."""
    return frozenset(path for kind, path in _PATHS.items() if not serves(task, kind))


def refusal_of(kind: Kind, task: Task) -> HttpError | None:
    """The 404 of a path that a server for `task` does not have; None if it has it."""
    if serves(task, kind):
        return None
    others = " or ".join(f"--task={other}" for other, kinds in _SERVED.items() if kind in kinds)
    own = ", ".join(_PATHS[each] for each in _SERVED[task])
    text = f"{_PATHS[kind]} needs a server with {others}; this one {_VERBS[task]} (--task={task}) and answers {own}"
    return client_error(404, text, code="task_not_served")
