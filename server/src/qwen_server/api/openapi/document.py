"""Builds the OpenAPI document from the routes, the schemas and the configured limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from qwen_server import __version__
from qwen_server.api.bodies.limits import Limits
from qwen_server.api.openapi.answers import ERROR_ANSWERS
from qwen_server.api.openapi.examples import EXAMPLES
from qwen_server.api.openapi.schemas import schemas
from qwen_server.api.tasks import paths_of_others
from qwen_server.config.settings import Settings
from qwen_server.config.values import Task

TITLE: Final = "Qwen-vLLM API"
_DESCRIPTION: Final = """\
Qwen 模型的推理服务，兼容 OpenAI API (a Qwen model served by vLLM, compatible with OpenAI's API and SDKs).

- Every response has the header `X-Request-Id`: the client's, if it is valid, or a new one.
- An unknown path gives 404 and a method that is not allowed gives 405, with a `ClientError`.
- Overload gives 503 and an engine failure gives 500, in the specification's formats.
- Unknown fields of a request are ignored; `null` means the default.
"""
_TAGS: Final = [
    {"name": "generation", "description": "文本生成 (text generation)"},
    {"name": "pooling", "description": "文本向量、重排序与分类 (embeddings, reranking and classification)"},
    {"name": "models", "description": "模型 (models)"},
    {"name": "health", "description": "健康检查 (health checks)"},
    {"name": "administration", "description": "管理 (administration, with --admin-api-keys-dir)"},
    {"name": "metrics", "description": "可观测性 (observability)"},
]
_WHERE: Final = "required only if API keys are set"
_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": f"as OpenAI's SDKs send it; {_WHERE}"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": f"as Anthropic's SDKs; {_WHERE}"},
}


def document(routes: Sequence[BaseRoute], settings: Settings) -> dict[str, Any]:
    """Returns the OpenAPI document of `routes`, with the limits and defaults in `settings`."""
    described = get_openapi(
        title=TITLE,
        version=__version__,
        description=_DESCRIPTION,
        tags=_TAGS,
        servers=[{"url": "/"}],
        routes=routes,
    )
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for operation in described["paths"][route.path_format].values():
                operation["operationId"] = route.name
                if "administration" in route.tags:
                    operation["security"] = [{name: []} for name in _KEYS]
                elif route.path.startswith(("/v1/", "/tokenizer_info")) or {"generation", "pooling"}.intersection(
                    route.tags
                ):
                    operation["security"] = [{}, *({name: []} for name in _KEYS)]
    described["components"] = {
        "schemas": schemas(Limits(settings)),
        "responses": ERROR_ANSWERS,
        "examples": {name: {"value": value} for name, value in EXAMPLES.items()},
        "securitySchemes": _KEYS,
    }
    return described


def for_task(described: dict[str, Any], task: Task) -> dict[str, Any]:
    """The part of a document that is true of a server for `task`."""
    others = paths_of_others(task)
    return described | {"paths": {path: each for path, each in described["paths"].items() if path not in others}}
