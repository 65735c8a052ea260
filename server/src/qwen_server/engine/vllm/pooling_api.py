"""Embeddings, scores and classes over vLLM's own serving code."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import TypeAdapter
from starlette.responses import Response
from vllm.entrypoints.pooling.classify.protocol import ClassificationCompletionRequest
from vllm.entrypoints.pooling.classify.serving import ServingClassification
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
from vllm.entrypoints.pooling.embed.serving import ServingEmbedding
from vllm.entrypoints.pooling.pooling.protocol import PoolingCompletionRequest
from vllm.entrypoints.pooling.pooling.serving import ServingPooling
from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreRequest
from vllm.entrypoints.pooling.scoring.serving import ServingScores
from vllm.entrypoints.pooling.utils import enable_scoring_api, get_pooling_output_encoder, get_pooling_usage
from vllm.renderers.chat_utils import ChatTemplateConfig

from qwen_server.config.values import Task
from qwen_server.engine.base import EngineError, InvalidRequestError, Kind
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.serving_objects import Api

RERANKER_TEMPLATE: Final = Path(__file__).with_name("qwen3_reranker.jinja")
_OF_RERANKERS: Final = ("instruction", "chat_template_kwargs")
# What vLLM calls the tasks of a pooling model, by ours. A reranker is a classifier with one class.
_POOLERS: Final[Mapping[Task, str]] = {"embed": "embed", "rerank": "classify", "classify": "classify"}


class _Finite:
    """Refuses results that are no numbers, which JSON cannot say. They are the model's failure."""

    def _postprocessing(self, io_processor: Any, ctx: Any) -> Response:
        if not all(bool(torch.isfinite(result.outputs.data).all()) for result in ctx.final_res_batch):
            raise EngineError("the model's result is not a number")
        answer: Response = super()._postprocessing(io_processor, ctx)  # type: ignore[misc]
        return answer


class Embeddings(_Finite, ServingEmbedding):
    """vLLM's serving object. It encodes one embedding at a time, so that others get their share.

    vLLM encodes the whole answer at once, which holds the interpreter for seconds.
    """

    def _openai_json_response(self, final_res_batch: Any, *arguments: Any, **options: Any) -> Any:
        return _encoded("embedding", final_res_batch, *arguments, **options)


class Pooling(_Finite, ServingPooling):
    """The same for /pooling."""

    def request_output_to_pooling_json_response(self, final_res_batch: Any, *arguments: Any, **options: Any) -> Any:
        """The answer as JSON."""
        return _encoded("pooling", final_res_batch, *arguments, **options)


class Scores(_Finite, ServingScores):
    """vLLM's serving object."""


class Classes(_Finite, ServingClassification):
    """vLLM's serving object."""


def _encoded(
    kind: str, outputs: Sequence[Any], request_id: str, created_time: int, model_name: str, *encoding: Any
) -> Response:
    head = {"id": request_id, "object": "list", "created": created_time, "model": model_name}
    fields = head | {"usage": get_pooling_usage(outputs).model_dump()}
    start = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).removesuffix("}")
    content = b"".join([start.encode(), b',"data":[', *_items(kind, outputs, encoding), b"]}"])
    return Response(content, media_type="application/json")


def _items(kind: str, outputs: Sequence[Any], encoding: tuple[Any, ...]) -> Iterator[bytes]:
    encode = get_pooling_output_encoder(*encoding)
    field = "embedding" if kind == "embedding" else "data"
    for index, output in enumerate(outputs):
        item = {"object": kind, "index": index, field: encode(output)}
        text = json.dumps(item, allow_nan=False, separators=(",", ":"))
        yield f"{',' if index else ''}{text}".encode()


def pooling_apis(parts: Parts, tasks: tuple[Any, ...], task: Task) -> dict[Kind, Api]:
    """Builds the serving objects for `task`.

    tasks: what vLLM can do with the model. Raises EngineError if that is something else.
    """
    config = parts.llm.model_config
    _require(config, tasks, task)
    original = getattr(config.hf_config, "is_original_qwen3_reranker", False)
    common: dict[str, Any] = {
        "request_logger": None,
        "chat_template_config": ChatTemplateConfig(
            chat_template=RERANKER_TEMPLATE.read_text(encoding="utf-8") if original else None
        ),
    }
    client: Any = parts.client
    pooling = Pooling(client, parts.models, supported_tasks=tasks, **common)
    apis: dict[Kind, Api] = {"pooling": _api("input", PoolingCompletionRequest, pooling)}
    if task == "embed":
        apis["embeddings"] = _api("input", EmbeddingCompletionRequest, Embeddings(client, parts.models, **common))
    if task == "classify":
        apis["classify"] = _api("input", ClassificationCompletionRequest, Classes(client, parts.models, **common))
    else:
        scores = Scores(client, parts.models, supported_tasks=tasks, **common)
        unread = _OF_RERANKERS if task == "embed" else ()
        apis["rerank"] = _api("documents", RerankRequest, scores, unread)
        apis["score"] = _api("documents", ScoreRequest, scores, unread)
    return apis


def _require(config: Any, tasks: tuple[Any, ...], task: Task) -> None:
    pooler = config.get_pooling_task(tasks)
    if pooler != _POOLERS[task] or (task == "rerank" and not enable_scoring_api(tasks, config)):
        classes = getattr(config.hf_config, "num_labels", None) if pooler == "classify" else None
        found = pooler if classes is None else f"{pooler} with {classes} class(es)"
        raise EngineError(f"--task={task}: this model cannot do it; what it is made for is: {found or 'to generate'}")


def _api(param: str, model: Any, serving: Callable[[Any], Awaitable[Any]], unread: Sequence[str] = ()) -> Api:
    """`unread` are fields that the model would not see."""
    adapter: TypeAdapter[Any] = TypeAdapter(model)

    def request(body: dict[str, Any], request_id: str) -> Any:
        for name in unread:
            if body.get(name):
                text = f"{name} is for rerankers: this server compares embeddings (--task=embed)"
                raise InvalidRequestError(text, param=name)
        return adapter.validate_python(body | {"request_id": request_id.partition("-")[2]})

    # Validating a thousand texts takes long enough to hold up others.
    return Api(param, request, serving, slow=True, pools=True)
