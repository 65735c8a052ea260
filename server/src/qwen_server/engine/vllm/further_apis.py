"""The serving objects of the further APIs: Responses, Messages, tokenization and pooling.

They are built at the first request.
"""

from __future__ import annotations

from typing import Any

from qwen_server.config.values import Task
from qwen_server.engine.base import Kind
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.serving_objects import Api


def build(kind: Kind, parts: Parts, task: Task, tasks: tuple[Any, ...]) -> dict[Kind, Api]:
    """Imports and builds the serving objects for `kind` and related kinds.

    This may take seconds, so run it in a thread. `tasks` is what vLLM can do with the model, where
    `task` is not to generate.
    """
    # Imported late, because most servers never need these modules and they would delay the start.
    if kind == "responses":
        from qwen_server.engine.vllm.responses_api import responses_api  # noqa: PLC0415

        return responses_api(parts)
    if kind in ("messages", "count_tokens"):
        from qwen_server.engine.vllm.messages_api import messages_apis  # noqa: PLC0415

        return messages_apis(parts)
    if kind in ("embeddings", "pooling", "score", "rerank", "classify"):
        from qwen_server.engine.vllm.pooling_api import pooling_apis  # noqa: PLC0415

        return pooling_apis(parts, tasks, task)
    from qwen_server.engine.vllm.tokenization_api import tokenization_apis  # noqa: PLC0415

    return tokenization_apis(parts)
