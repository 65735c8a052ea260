"""What administrators do with a running server: POST /reset_prefix_cache, /sleep and /wake_up, and
GET /is_sleeping, as in vLLM's server.
"""

from __future__ import annotations

from typing import Any, Final, cast

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qwen_server.api.openapi.answers import errors, json_answer, succeeds
from qwen_server.api.routes.common import AdminRoute, require_ready, service_of
from qwen_server.control.sleeping import Mode, answer_of
from qwen_server.http.error_bodies import invalid

# The parts of the engine that can wake up alone. `scheduling` ends a sleep of level 0.
TAGS: Final = ("weights", "kv_cache", "cudagraph", "scheduling")
_LEVELS: Final = ("0", "1", "2")
_MODES: Final = ("abort", "wait")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_RESET_SECONDS: Final = 30.0

router = APIRouter(tags=["administration"], route_class=AdminRoute)

_ERRORS = errors(400, 401, 403, 500, 503)


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _parameters(*parameters: dict[str, Any]) -> dict[str, Any]:
    """Declared by hand, because FastAPI would document a 422 that never occurs."""
    return {"parameters": list(parameters)}


def _boolean(name: str, description: str) -> dict[str, Any]:
    return _query(name, description, {"type": "boolean", "default": False})


@router.post(
    "/reset_prefix_cache",
    summary="清空前缀缓存 (Reset the prefix cache)",
    response_model=None,
    responses=succeeds(json_answer("结果 (whether it is empty now)", "CacheReset", "CacheReset")) | _ERRORS,
    openapi_extra=_parameters(
        _boolean("reset_running_requests", "compute the prompts of running requests again"),
        _boolean("reset_external", "also empty the cache behind a KV connector"),
    ),
)
async def reset_prefix_cache(request: Request) -> Response:
    """Empties the prefix cache.

    `success` is false if requests run and `reset_running_requests` is not set.
    """
    running, external = _flag(request, "reset_running_requests"), _flag(request, "reset_external")
    require_ready(request)
    maintenance = service_of(request).engine.maintenance
    success = await answer_of(maintenance.reset_prefix_cache(running=running, external=external), _RESET_SECONDS)
    return JSONResponse({"success": success})


@router.post(
    "/sleep",
    summary="休眠 (Put the engine to sleep)",
    response_model=None,
    responses=succeeds(json_answer("已休眠 (it sleeps)", "Slept", "Slept")) | _ERRORS,
    openapi_extra=_parameters(
        _query("level", "0 only stops the scheduler, 1 frees the GPU memory and keeps the weights in the memory of "
               "the host, 2 frees all", {"type": "integer", "enum": [0, 1, 2], "default": 1}),
        _query("mode", "abort the accepted requests, or wait for them", {"enum": list(_MODES), "default": "abort"}),
    ),
)  # fmt: skip
async def sleep(request: Request) -> Response:
    """Puts the engine to sleep. New requests get a 503 until it is awake again."""
    level = int(_choice(request, "level", _LEVELS, "1"))
    mode = cast("Mode", _choice(request, "mode", _MODES, "abort"))
    require_ready(request)
    service = service_of(request)
    if level > 0 and not service.engine.info.can_sleep:
        raise invalid(
            f"level {level} requires vLLM's sleep mode, which it has on GPUs: start the server with "
            "`-- --enable-sleep-mode`",
            "level",
            "sleep_mode_off",
        )
    if 0 < service.sleep.level < level:
        text = f"the engine sleeps at level {service.sleep.level} already; wake it up before it sleeps at level {level}"
        raise invalid(text, "level", "asleep")
    await service.sleep.fall_asleep(level, mode)
    return JSONResponse({"status": "sleeping", "level": level})


@router.post(
    "/wake_up",
    summary="唤醒 (Wake the engine up)",
    response_model=None,
    responses=succeeds(json_answer("状态 (whether it is fully awake)", "WokenUp", "Awake")) | _ERRORS,
    openapi_extra=_parameters(
        _query("tags", "the parts to wake up; without it, all", {"type": "array", "items": {"enum": list(TAGS)}})
    ),
)
async def wake_up(request: Request) -> Response:
    """Wakes the engine up. `status` is `sleeping` while parts of it are still asleep."""
    tags = list(dict.fromkeys(request.query_params.getlist("tags"))) or None
    for tag in tags or ():
        _check(tag, "tags", TAGS)
    require_ready(request)
    awake = await service_of(request).sleep.wake_up(tags)
    return JSONResponse({"status": "awake" if awake else "sleeping", "tags": tags})


@router.get(
    "/is_sleeping",
    summary="是否休眠 (Whether the engine sleeps)",
    response_model=None,
    responses=succeeds(json_answer("状态 (whether it sleeps)", "IsSleeping", "Asleep")) | errors(401, 403),
)
async def is_sleeping(request: Request) -> Response:
    """Says whether the engine sleeps: from when its scheduler stands until it is fully awake."""
    return JSONResponse({"is_sleeping": service_of(request).sleep.asleep})


def _flag(request: Request, name: str) -> bool:
    return _BOOLEANS[_choice(request, name, tuple(_BOOLEANS), "false")]


def _choice(request: Request, name: str, allowed: tuple[str, ...], default: str) -> str:
    value = request.query_params.get(name, default)
    _check(value, name, allowed)
    return value


def _check(value: str, name: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise invalid(f"{name} must be one of {', '.join(allowed)}, not {value[:64]!r}", name)
