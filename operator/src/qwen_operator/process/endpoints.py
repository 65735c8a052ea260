"""The HTTP endpoints of the operator: /metrics, /healthz and /readyz.

Every pod of the cluster may connect to them. The kubelet's probes must be answered all the same.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import REGISTRY

IDLE_SECONDS: Final = 15.0
"""A connection without a request is closed after so long."""
MAX_CONNECTIONS: Final = 200


class _Server(web.Server):
    """Serves a limited number of connections: for a new one, that with the oldest request ends."""

    def __init__(self, health: Health) -> None:
        super().__init__(self._answer, keepalive_timeout=IDLE_SECONDS, access_log=None)
        self._health = health
        self._open: dict[web.RequestHandler, None] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Closes another connection if there are too many."""
        super().connection_made(handler, transport)
        self._open[handler] = None
        if len(self._open) > MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.force_close()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forgets a connection."""
        super().connection_lost(handler, exc)
        self._open.pop(handler, None)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.protocol in self._open:  # it is the newest again
            self._open[request.protocol] = self._open.pop(request.protocol)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/metrics":
                return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
            case "/healthz":
                overdue = self._health.overdue()
                return web.json_response({"overdue": overdue}, status=503 if overdue else 200)
            case "/readyz":
                return web.json_response({"ready": self._health.ready}, status=200 if self._health.ready else 503)
        return web.Response(status=404)


async def serve(health: Health, port: int) -> tuple[web.ServerRunner, int]:
    """Serves the endpoints. Returns the runner, for its cleanup, and the port."""
    runner = web.ServerRunner(_Server(health), handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    # With port 0 each address family gets its own port. IPv4 addresses are pairs.
    return runner, int(min(runner.addresses, key=len)[1])
