"""GET /health and the probes: /health/live, /health/ready and /health/generate."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qwen_server.api.openapi.answers import Answers, json_answer
from qwen_server.api.routes.common import service_of
from qwen_server.engine.base import Engine, EngineError, InvalidRequestError
from qwen_server.http.error_bodies import engine_failure
from qwen_server.observe import snapshots

GENERATE_SECONDS = 10.0

router = APIRouter(tags=["health"])

_HEALTH_ANSWERS: Answers = {
    200: json_answer("正常 (requests are answered)", "Health", "Health"),
    503: json_answer("不可用 (starting, restarting, draining or unhealthy)", "Health", "Starting"),
}
_PROBE_ANSWERS: Answers = {
    200: json_answer("正常 (healthy)", "Probe", "Well"),
    503: json_answer("异常 (unhealthy)", "Probe", "NotWell"),
}


@router.get("/health", summary="健康检查 (Health)", response_model=None, responses=_HEALTH_ANSWERS)
async def health(request: Request) -> Response:
    """Returns 200 while requests are answered, otherwise 503 with the same fields."""
    status, body = snapshots.health(service_of(request).observe())
    return JSONResponse(body, status)


@router.get("/health/live", summary="存活探针 (Liveness probe)", response_model=None, responses=_PROBE_ANSWERS)
async def live(request: Request) -> Response:
    """Returns 503 only if nothing but a restart can help."""
    return _probe(service_of(request).live())


@router.get("/health/ready", summary="就绪探针 (Readiness probe)", response_model=None, responses=_PROBE_ANSWERS)
async def ready(request: Request) -> Response:
    """Returns 503 while starting, restarting or draining, or if the engine is dead or hangs."""
    return _probe(service_of(request).ready())


@router.get("/health/generate", summary="生成探针 (Generation probe)", response_model=None, responses=_PROBE_ANSWERS)
async def generate(request: Request) -> Response:
    """Generates one token as a proof of health, outside of the queue and of all statistics.

    Concurrent requests share one generation, so that frequent calls do no harm.
    """
    service = service_of(request)
    if service.lifecycle.state in ("starting", "restarting", "dead"):
        return _probe(ok=False)
    try:
        await asyncio.shield(_proof(request))
    except TimeoutError:
        return JSONResponse({"status": "unhealthy", "error": f"no token within {GENERATE_SECONDS:g} s"}, 503)
    except (EngineError, InvalidRequestError) as error:
        return JSONResponse({"status": "unhealthy", "error": engine_failure(str(error)).text}, 503)
    return _probe(ok=True)


def _proof(request: Request) -> asyncio.Task[None]:
    state = request.app.state
    proof: asyncio.Task[None] | None = getattr(state, "proof", None)
    if proof is None or proof.done():
        proof = state.proof = asyncio.create_task(_generate_one(service_of(request).engine), name="proof")
        # Retrieves the exception even if no request waits for it any more.
        proof.add_done_callback(lambda task: task.cancelled() or task.exception())
    return proof


async def _generate_one(engine: Engine) -> None:
    async with asyncio.timeout(GENERATE_SECONDS):
        await engine.probe()


def _probe(ok: bool) -> Response:
    return JSONResponse({"status": "ok" if ok else "unhealthy"}, 200 if ok else 503)
