"""The HTTP endpoints of the operator: /metrics, /healthz and /readyz."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import REGISTRY


async def serve(health: Health, port: int) -> tuple[web.AppRunner, int]:
    """Serves the endpoints. Returns the runner, for its cleanup, and the port."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        overdue = health.overdue()
        return web.json_response({"overdue": overdue}, status=503 if overdue else 200)

    async def readyz(_: web.Request) -> web.Response:
        return web.json_response({"ready": health.ready}, status=200 if health.ready else 503)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    # With port 0 each address family gets its own port. IPv4 addresses are pairs.

    return runner, int(min(runner.addresses, key=len)[1])
