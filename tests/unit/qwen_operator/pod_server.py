"""Servers of pods that answer as a test says, for tests of what polls them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from qwen_operator.remediation.poll import Poller

WELL = {"uptime": {"seconds": 5.0}, "requests": {"running": 0, "waiting": 0}, "alerts": []}


@asynccontextmanager
async def pods(answer: Callable[[str, str], Awaitable[web.Response]]) -> AsyncIterator[Poller]:
    """A client of pods whose servers answer so: the arguments are their address and the path."""

    async def handle(request: web.Request) -> web.Response:
        return await answer(request.match_info["ip"], request.match_info["path"])

    app = web.Application()
    app.router.add_get("/{ip}/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    port = runner.addresses[0][1]
    poller = Poller(lambda ip: f"http://127.0.0.1:{port}/{ip}")
    yield poller
    await poller.close()
    await runner.cleanup()
