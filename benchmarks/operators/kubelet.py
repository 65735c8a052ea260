"""`python -m benchmarks.operators.kubelet KUBECONFIG`: pretends that all pods run.

Each pod gets an address of the loopback network, so that one server answers for all of them. It
also notes how late they are polled, and how soon a sick one is taken out of rotation.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop
from aiohttp import web

from benchmarks.figures import percentile
from benchmarks.operators.subjects import NAMESPACE
from qwen_operator.api.names import READINESS_GATE
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.informer import Informer, service_label
from qwen_operator.kube.resources import PODS

Object = dict[str, Any]

PORT: Final = 8000
"""Where the operator polls its pods."""
ALERT: Final = "EngineUnresponsive"
POLL_SECONDS: Final = 2.0
"""How often it does, by default."""
ANSWER: Final = Path(__file__).with_name("answer.json")
"""What a server reports that has served for a while, on a GPU."""
_AT_ONCE: Final = 8
STARTS_A_SECOND: Final = 25
"""Pods that begin to run in a second. All at once would stop the API server of a small machine."""
_POLLED: Final = 4 * POLL_SECONDS
"""A longer pause is none between two polls: the operator was restarted."""


def address(number: int) -> str:
    """The address of a pod."""
    return f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


def status(pod: Object, ip: str) -> Object | None:
    """What a kubelet would report of a pod that has started; None if it has reported that."""
    found = pod.get("status") or {}
    conditions = {item["type"]: item["status"] for item in found.get("conditions") or ()}
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()]
    ready = "True" if all(conditions.get(gate) == "True" for gate in gates) else "False"
    if conditions.get("Ready") == ready and found.get("podIP"):
        return None
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    states = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": "True", "Ready": ready}
    running = {"ready": True, "started": True, "restartCount": 0, "imageID": ""}
    state = {"running": {"startedAt": now}}
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": name, "status": text, "lastTransitionTime": now} for name, text in states.items()],
        "containerStatuses": [
            {"name": item["name"], "image": item.get("image", ""), "state": state, **running}
            for item in pod["spec"]["containers"]
        ],
    }


class Kubelet:
    """Reports the pods of the namespace as running, and as ready once their gates are open."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._pods = Informer(kube, PODS, (NAMESPACE,), self._offer, selector="")
        self._changed: asyncio.Queue[str] = asyncio.Queue()
        self._addresses: dict[str, str] = {}
        self._starts: dict[str, float] = {}
        self._next_start = 0.0
        self._begun = time.monotonic()
        self._answer: Object = json.loads(ANSWER.read_text(encoding="utf-8"))
        self._polled_at: dict[str, float] = {}
        self._lags: list[float] = []
        self._sick: set[str] = set()
        self._shown: dict[str, float] = {}
        self._out: dict[str, float] = {}

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pods.run())
            for _ in range(_AT_ONCE):
                tasks.create_task(self._report())

    def _offer(self, pod: Object) -> None:
        ip = _ip(pod)
        if ip in self._shown and _condition(pod, READINESS_GATE) == "False":
            self._out.setdefault(ip, time.monotonic() - self._shown[ip])
        name, now = pod["metadata"]["name"], time.monotonic()
        if name not in self._starts:
            self._starts[name] = self._next_start = max(now, self._next_start + 1 / STARTS_A_SECOND)
        asyncio.get_running_loop().call_later(max(0.0, self._starts[name] - now), self._changed.put_nowait, name)

    async def _report(self) -> None:
        while True:
            name = await self._changed.get()
            pod = self._pods.get(NAMESPACE, name)
            if pod is None or "deletionTimestamp" in pod["metadata"]:
                continue
            ip = self._addresses.setdefault(name, address(len(self._addresses)))
            body = status(pod, ip)
            if body is None:
                continue
            try:
                patched = await self._kube.patch(
                    PODS, name, NAMESPACE, {"status": body}, kind="strategic", subresource="status"
                )
            except KubeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                self._changed.put_nowait(name)
                await asyncio.sleep(1.0)
            else:
                self._pods.store(patched)

    # The HTTP server of all pods.

    async def metrics(self, request: web.Request) -> web.Response:
        """The answer of a pod that has nothing to do, or whose engine hangs."""
        now = time.monotonic()
        ip = request.host.partition(":")[0]
        last = self._polled_at.get(ip)
        self._polled_at[ip] = now
        if last is not None and now - last < _POLLED:
            self._lags.append(max(0.0, now - last - POLL_SECONDS))
        if ip in self._sick:
            self._shown.setdefault(ip, now)
        alerts = [{"name": ALERT, "severity": "critical"}] if ip in self._sick else []
        own: Object = {
            "status": "unhealthy" if alerts else "healthy",
            "uptime": {"seconds": now - self._begun, "human": "0h 1m"},
            "alerts": alerts,
            "alerts_count": len(alerts),
        }
        return web.json_response(self._answer | own)

    async def lags(self, _: web.Request) -> web.Response:
        """The number of polls, and how much later than planned they came, since the last time."""
        lags, self._lags = self._lags, []
        body = {"polls": len(lags), "p50": percentile(lags, 0.5), "p99": percentile(lags, 0.99)}
        return web.json_response(body if lags else {"polls": 0})

    async def ready(self, _: web.Request) -> web.Response:
        """The number of pods that are ready."""
        ready = sum(_condition(pod, "Ready") == "True" for pod in self._pods.objects.values())
        return web.json_response({"ready": ready})

    async def sicken(self, _: web.Request) -> web.Response:
        """Lets the engine of one pod of each tenth service hang."""
        by_service: dict[str, Object] = {}
        for key in sorted(self._pods.objects):
            by_service.setdefault(service_label(self._pods.objects[key]), self._pods.objects[key])
        chosen = list(by_service.values())[::10]
        self._sick = {ip for pod in chosen if (ip := _ip(pod))}
        return web.json_response({"sick": len(self._sick)})

    async def out(self, _: web.Request) -> web.Response:
        """How many sick pods are out of rotation, and how long after their first alert."""
        times = list(self._out.values())
        body = {"out": len(times), "p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}
        return web.json_response(body if times else {"out": 0})


def _ip(pod: Object) -> str:
    return str((pod.get("status") or {}).get("podIP") or "")


def _condition(pod: Object, kind: str) -> str:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((str(item["status"]) for item in conditions if item["type"] == kind), "")


async def main(arguments: Sequence[str]) -> None:
    """Runs until it is terminated."""
    kubelet = Kubelet(await KubeClient.connect(arguments[0]))
    app = web.Application()
    app.router.add_get("/api/v1/metrics", kubelet.metrics)
    app.router.add_get("/lags", kubelet.lags)
    app.router.add_get("/ready", kubelet.ready)
    app.router.add_get("/sicken", kubelet.sicken)
    app.router.add_get("/out", kubelet.out)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", PORT, backlog=1024).start()
    await kubelet.run()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
