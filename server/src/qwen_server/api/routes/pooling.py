"""What a model that does not generate answers: POST /v1/embeddings, /pooling, /score and others.

As in vLLM's server. Each server answers those that its task is for, see `api/tasks.py`.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from qwen_server.api.openapi.answers import computed, request_body
from qwen_server.api.routes.common import GenerationRoute, generation

router = APIRouter(tags=["pooling"], route_class=GenerationRoute)


@router.post(
    "/v1/embeddings",
    summary="文本向量 (Embeddings)",
    response_model=None,
    openapi_extra=request_body("EmbeddingsRequest", example="EmbeddingsRequest"),
    responses=computed("向量 (the embeddings)", "EmbeddingsAnswer"),
)
async def embeddings(request: Request) -> Response:
    """Returns the embedding of each text, of a server with `--task=embed`."""
    return generation(request, "embeddings")


@router.post(
    "/pooling",
    summary="池化输出 (What the model's pooler gives)",
    response_model=None,
    openapi_extra=request_body("PoolingRequest", example="PoolingRequest"),
    responses=computed("池化输出 (the outputs)", "PoolingAnswer"),
)
async def pooling(request: Request) -> Response:
    """Returns what the pooler gives for each text: an embedding, or probabilities of classes."""
    return generation(request, "pooling")


@router.post("/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
@router.post(
    "/v1/rerank",
    summary="重排序 (Rerank)",
    response_model=None,
    openapi_extra=request_body("RerankRequest", example="RerankRequest"),
    responses=computed("排序结果 (the documents, the most relevant first)", "RerankAnswer"),
)
async def rerank(request: Request) -> Response:
    """Orders documents by their relevance to a query. The same as /rerank and Cohere's /v2/rerank.

    A server with `--task=embed` compares embeddings, one with `--task=rerank` reads both together.
    """
    return generation(request, "rerank")


@router.post("/v1/score", include_in_schema=False)
@router.post(
    "/score",
    summary="相关性评分 (Score pairs of texts)",
    response_model=None,
    openapi_extra=request_body("ScoreRequest", example="ScoreRequest"),
    responses=computed("评分 (the scores)", "ScoreAnswer"),
)
async def score(request: Request) -> Response:
    """Scores pairs of texts, in the order of the request. The same as /v1/score."""
    return generation(request, "score")


@router.post(
    "/classify",
    summary="分类 (Classify)",
    response_model=None,
    openapi_extra=request_body("ClassifyRequest", example="ClassifyRequest"),
    responses=computed("类别 (the classes)", "ClassifyAnswer"),
)
async def classify(request: Request) -> Response:
    """Returns the class of each text and all probabilities, of a server with `--task=classify`."""
    return generation(request, "classify")
