"""Serves the real application with a scripted engine on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import uvloop
from fastapi import FastAPI

from qwen_server.app import create_app
from qwen_server.config.settings import Settings
from qwen_server.control.lifecycle import Lifecycle
from qwen_server.control.service import Service
from qwen_server.http.connections import uvicorn_config
from qwen_server.observe.gpu import GpuMonitor
from qwen_server.observe.tracing import Tracing
from tests.loopback import NO_TLS
from tests.scripted_engine import ScriptedEngine

NOWHERE = Path("/nonexistent")


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on the loop of the program, whose transports raise where asyncio's are silent."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        uvloop.run(test(*arguments, **options))

    return run


def make_settings(**values: Any) -> Settings:
    """Settings that read nothing from this machine."""
    defaults: dict[str, Any] = {"device": "cpu", "alerts_file": NOWHERE, "podinfo_dir": NOWHERE}
    return Settings(**(defaults | values))


class IdleServer:
    """An HTTP server without requests, for a runner. It serves until it should exit."""

    should_exit = False

    async def serve(self, sockets: Any) -> None:
        """Serves nothing."""
        while not self.should_exit:  # noqa: ASYNC110 (what uvicorn does)
            await asyncio.sleep(0.001)


@dataclass
class Served:
    """A running server and everything behind it."""

    client: httpx.AsyncClient
    engine: ScriptedEngine
    lifecycle: Lifecycle
    service: Service
    url: str
    app: FastAPI

    async def chat(self, text: str = "你好", **fields: Any) -> httpx.Response:
        """A chat whose only message is `text`."""
        body = {"messages": [{"role": "user", "content": text}]} | fields
        return await self.client.post("/v1/chat/completions", json=body)

    async def metrics(self) -> dict[str, Any]:
        """The body of /api/v1/metrics."""
        body: dict[str, Any] = (await self.client.get("/api/v1/metrics")).json()
        return body

    async def until_idle(self) -> None:
        """Waits until no request is queued, in the engine or counted as running.

        It fails before a script of 10 s ends by itself, so that tests can show what an abort does.
        """

        def idle() -> bool:
            return not (self.service.admission.running or self.lifecycle.in_flight or self.engine.unfinished)

        await until(idle, 8)


@contextlib.asynccontextmanager
async def serve(
    *,
    ready: bool = True,
    gpu: GpuMonitor | None = None,
    tracing: Tracing | None = None,
    send_buffer: int | None = None,
    **values: Any,
) -> AsyncIterator[Served]:
    """Runs the application in uvicorn on a free port, with its background tasks.

    `send_buffer` is how many bytes the kernel holds for a client that does not read. Without the
    runner, nobody restarts an engine that dies.
    """
    engine = ScriptedEngine()
    lifecycle = Lifecycle()
    settings = make_settings(**({"engine_restarts": 0} | values))
    if settings.engine_restarts == 0:
        engine.give_up()
    app = create_app(settings, engine, lifecycle, gpu=gpu, tracing=tracing)
    listener = socket.create_server(("127.0.0.1", 0))
    # uvloop does this for the program. asyncio does not for this kind of socket, and each answer
    # would take 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = uvicorn.Server(uvicorn_config(app, settings, app.state.patches))
    task = asyncio.create_task(server._serve([listener]))
    await until(lambda: server.started or task.done())
    if ready:
        await engine.start()
        lifecycle.mark_ready()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    limits = httpx.Limits(max_connections=200)
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20, limits=limits, verify=NO_TLS) as client:
            yield Served(client, engine, lifecycle, app.state.service, url, app)
    finally:
        server.should_exit = True
        await task
        listener.close()


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Waits until `condition` holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (the condition is any state, not an event)
            await asyncio.sleep(0.005)


def events_of(text: str) -> list[Any]:
    """The data of each server-sent event: parsed JSON, or the text `[DONE]`."""
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
