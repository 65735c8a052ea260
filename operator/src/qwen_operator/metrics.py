"""What the operator tells Prometheus about itself, and the HTTP endpoint for it and for the kubelet's probes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()
LEADER = Gauge("qwen_operator_leader", "1 while this process is the one that acts.", registry=REGISTRY)
SERVICES = Gauge("qwen_operator_services", "QwenServices that are known.", registry=REGISTRY)
QUEUE = Gauge("qwen_operator_queue_length", "QwenServices that wait to be reconciled.", registry=REGISTRY)
RECONCILES = Counter("qwen_operator_reconciles", "Reconciliations by result.", ["result"], registry=REGISTRY)
RECONCILE_SECONDS = Histogram(
    "qwen_operator_reconcile_seconds",
    "How long a reconciliation takes.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
    registry=REGISTRY,
)
WRITES = Counter("qwen_operator_writes", "Writes to the Kubernetes API by kind.", ["kind"], registry=REGISTRY)
POLLS = Counter("qwen_operator_polls", "Reads of a pod's metrics by result.", ["result"], registry=REGISTRY)
ACTIONS = Counter(
    "qwen_operator_remediation_actions",
    "Steps of remediation, taken or (in a dry run) only reported.",
    ["namespace", "service", "alert", "action", "reason"],
    registry=REGISTRY,
)
PODS_OUT = Gauge(
    "qwen_operator_pods_out_of_rotation",
    "Pods that remediation holds out of rotation.",
    ["namespace", "service"],
    registry=REGISTRY,
)
SUSPENDED = Gauge(
    "qwen_operator_remediation_suspended",
    "1 while remediation of a service has stopped acting.",
    ["namespace", "service"],
    registry=REGISTRY,
)


@dataclass
class Health:
    """Whether the operator is alive: every part that should beat has a deadline for its next beat.

    A process that only stands by has no beats, so it is healthy as long as its loop answers.
    """

    clock: Callable[[], float] = time.monotonic
    ready: bool = False
    _due: dict[str, float] = field(default_factory=dict)

    def beat(self, part: str, within: float) -> None:
        """A part says that it lives and promises its next beat within so many seconds."""
        self._due[part] = self.clock() + within

    def forget(self, part: str) -> None:
        """A part that has ended on purpose."""
        self._due.pop(part, None)

    def overdue(self) -> list[str]:
        """The parts that missed their deadline."""
        now = self.clock()
        return sorted(part for part, due in self._due.items() if due < now)


async def serve(health: Health, port: int) -> tuple[web.AppRunner, int]:
    """Serves /metrics, /healthz and /readyz; returns the runner to clean up and the port that it got."""

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
    # with port 0 each address family gets a port of its own; IPv4 addresses are pairs
    return runner, int(min(runner.addresses, key=len)[1])
