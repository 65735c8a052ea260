"""Helpers of the operator's integration tests: an administrator's API, the operator in a thread, servers of pods."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qwen_operator.api.names import READINESS_GATE
from qwen_operator.controller import Controller
from qwen_operator.handlers import KopfThread
from qwen_operator.kube.client import KubeClient
from qwen_operator.process.health import Health
from qwen_operator.process.settings import read_settings
from qwen_operator.remediation.poll import Poller
from tests.integration.control_plane import ControlPlane, wait_until

Object = dict[str, Any]

QS = "qwen-vllm.io/v1alpha1"
IMAGES = {"QWEN_OPERATOR_SERVER_IMAGE_CPU": "server:cpu", "QWEN_OPERATOR_SERVER_IMAGE_CUDA": "server:cuda"}
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def path(api_version: str, plural: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """The URL path of objects."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    parts = [root, *(["namespaces", namespace] if namespace else []), plural, name, subresource]
    return "/".join(part for part in parts if part)


PLURALS = {
    "Namespace": "namespaces",
    "QwenService": "qwenservices",
    "Service": "services",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "CustomResourceDefinition": "customresourcedefinitions",
    "Deployment": "deployments",
}
CLUSTER_WIDE = ("Namespace", "CustomResourceDefinition")


def qwen_service(name: str = "news", **spec: Any) -> Object:
    """A small QwenService; keyword arguments are sections of its spec."""
    return {
        "apiVersion": QS,
        "kind": "QwenService",
        "metadata": {"name": name},
        "spec": {"model": {"source": {"builtin": "news-classifier"}}, "engine": {"device": "cpu"}, **spec},
    }


@dataclass(frozen=True)
class Api:
    """The API as an administrator uses it, in one namespace."""

    plane: ControlPlane
    namespace: str

    def create(self, obj: Object) -> Object:
        """Creates an object, with strict validation."""
        namespace = None if obj["kind"] in CLUSTER_WIDE else self.namespace
        where = path(obj["apiVersion"], PLURALS[obj["kind"]], namespace)
        created: Object = self.plane.request("POST", f"{where}?fieldValidation=Strict", obj)
        return created

    def get(self, api_version: str, plural: str, name: str) -> Object | None:
        """An object, None when there is none."""
        try:
            found: Object = self.plane.request("GET", path(api_version, plural, self.namespace, name))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return found

    def objects(self, api_version: str, plural: str) -> list[Object]:
        """All objects of a kind."""
        answer = self.plane.request("GET", path(api_version, plural, self.namespace))
        return list(answer["items"])

    def patch(
        self, api_version: str, plural: str, name: str, body: Object, subresource: str = "", *, kind: str = MERGE
    ) -> Object:
        """Merges fields into an object."""
        where = path(api_version, plural, self.namespace, name, subresource)
        patched: Object = self.plane.request("PATCH", where, body, kind)
        return patched

    def delete(self, api_version: str, plural: str, name: str) -> None:
        """Deletes an object."""
        self.plane.request("DELETE", path(api_version, plural, self.namespace, name))

    # What the tests ask for most.

    def service(self, name: str = "news") -> Object:
        """A QwenService that exists."""
        found = self.get(QS, "qwenservices", name)
        assert found is not None
        return found

    def status(self, name: str = "news") -> Object:
        """Its status, empty before the operator's first."""
        return dict(self.service(name).get("status") or {})

    def condition(self, kind: str, name: str = "news") -> Object:
        """A condition of its status; empty when there is none."""
        found = [item for item in self.status(name).get("conditions", ()) if item["type"] == kind]
        return dict(found[0]) if found else {}

    def deployment(self, name: str = "news") -> Object | None:
        """Its Deployment."""
        return self.get("apps/v1", "deployments", name)

    def pods(self) -> list[Object]:
        """The pods, oldest name first."""
        return sorted(self.objects("v1", "pods"), key=lambda pod: str(pod["metadata"]["name"]))

    def pod(self, name: str) -> Object:
        """A pod that exists."""
        found = self.get("v1", "pods", name)
        assert found is not None
        return found

    def events(self, reason: str, kind: str = "QwenService") -> list[Object]:
        """The Events with a reason about objects of a kind."""
        return [
            event
            for event in self.objects("v1", "events")
            if event["reason"] == reason and event["involvedObject"]["kind"] == kind
        ]

    # The part of the kubelet.

    def run_pod(
        self, name: str, ip: str, *, ready: bool = True, restarts: int = 0, ended: Object | None = None
    ) -> None:
        """Says of a pod what its kubelet would: it runs at an address, and its containers are ready or not.

        `ended` is how the container's last run ended.
        """
        text = "True" if ready else "False"
        gate_open = self.gate(name) == "True"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": "ContainersReady", "status": text, "lastTransitionTime": now},
            {"type": "Ready", "status": "True" if ready and gate_open else "False", "lastTransitionTime": now},
        ]
        container = {
            "name": "server",
            "ready": ready,
            "started": ready,
            "restartCount": restarts,
            "image": "server:cpu",
            "imageID": "",
            "state": {"running": {"startedAt": now}},
            "lastState": {"terminated": ended} if ended else {},
        }
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": conditions,
            "containerStatuses": [container],
        }
        self.patch("v1", "pods", name, {"status": status}, "status", kind=STRATEGIC)

    def gate(self, name: str) -> str:
        """The status of a pod's readiness gate; empty when nobody has written it."""
        conditions = self.pod(name)["status"].get("conditions", ())
        return next((item["status"] for item in conditions if item["type"] == READINESS_GATE), "")

    def started(self, count: int) -> list[str]:
        """The names of a service's pods, once there are so many."""
        pods = wait_until(f"{count} pods", lambda: len(self.pods()) == count and self.pods())
        return [pod["metadata"]["name"] for pod in pods]


@dataclass
class FakeServer:
    """What one pod answers. A hung engine still answers metrics, with an alert."""

    alerts: list[str] = field(default_factory=list)
    generates: bool = True
    silent: bool = False
    busy: int = 0
    uptime: float = 100.0
    asked: dict[str, int] = field(default_factory=dict)

    def answer(self, where: str) -> tuple[int, bytes]:
        """Status and body of a path."""
        self.asked[where] = self.asked.get(where, 0) + 1
        if self.silent:
            return 500, b"oops"
        if where == "/health/generate":
            return (200 if self.generates else 503), b"{}"
        self.uptime += 0.1
        body = {
            "status": "unhealthy" if self.alerts else "healthy",
            "uptime": {"seconds": self.uptime, "human": ""},
            "requests": {"running": self.busy, "waiting": 0},
            "alerts": [{"name": name, "severity": "critical"} for name in self.alerts],
        }
        return 200, json.dumps(body).encode()


class FakeServers:
    """The HTTP servers of all pods, behind one port: addresses of pods are paths here."""

    def __init__(self) -> None:
        self.by_ip: dict[str, FakeServer] = {}
        servers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, ip, rest = self.path.split("/", 2)
                server = servers.by_ip.get(ip)
                status, body = (404, b"") if server is None else server.answer(f"/{rest}")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def url_of(self, ip: str) -> str:
        """The base URL that stands for a pod's address."""
        return f"http://127.0.0.1:{self._server.server_port}/{ip}"

    def add(self, ip: str, **behaviour: Any) -> FakeServer:
        """A pod's server at an address."""
        server = self.by_ip[ip] = FakeServer(**behaviour)
        return server

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class OperatorThread:
    """The operator at work in a thread of the tests, for one namespace, without an election."""

    def __init__(self, kubeconfig: Path, namespace: str, url_of: Callable[[str], str]) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._url_of = url_of
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="operator")
        self._running = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self.controller: Controller | None = None

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        env = {**IMAGES, "QWEN_OPERATOR_WATCH_NAMESPACES": self._namespace, "QWEN_OPERATOR_POD_NAME": "test"}
        settings = read_settings(["--namespace", "qwen-system"], env)
        try:
            kube = await KubeClient.connect(str(self._kubeconfig))
            controller = self.controller = Controller(kube, settings, Health(), Poller(self._url_of))
            work = asyncio.create_task(controller.run())
            watcher = KopfThread(
                controller.service_seen, controller.service_gone, self._stop.set, settings.watch_namespaces
            )
            ready = asyncio.create_task(controller.ready.wait())
            await asyncio.wait((work, ready), return_when=asyncio.FIRST_COMPLETED)
            watcher.start()
            assert await watcher.started(), "kopf did not start"
            self._running.set()
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            await watcher.stop()
            work.cancel()
            [failure] = await asyncio.gather(work, return_exceptions=True)
            await kube.close()
            self._failure = failure if isinstance(failure, Exception) else None
        except Exception as error:  # noqa: BLE001 - it is raised again where the test waits
            self._failure = error
        finally:
            self._running.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._running.wait(30), "the operator did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def reconcile(self, name: str = "news") -> None:
        """Has a service looked at without a cause, as the resync does."""
        assert self._loop is not None
        assert self.controller is not None
        self._loop.call_soon_threadsafe(self.controller._queue.add, (self._namespace, name))

    def stop(self) -> None:
        """Ends the operator, and fails when it had failed."""
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the operator did not end"
        if self._failure is not None:
            raise self._failure
