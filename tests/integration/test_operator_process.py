"""The operator as a process: leader election, endpoints, and the ServiceAccount of the chart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.admin_api import AdminApi, qwen_service
from tests.integration.control_plane import ControlPlane, free_ports, stop, wait_until
from tests.integration.operator_thread import IMAGES

pytestmark = pytest.mark.cluster

SOURCE = Path(__file__).parents[2] / "operator" / "src"
BUSY_SECONDS = 1.0
"""Allowance for a test on the other core, often a vLLM, which has its share of this one, too."""
STARTS_SECONDS = 2.0
"""Allowance for the start beside it: the new leader lists all kinds before it acts."""
TERM_SECONDS = 3.0
"""What docs/operations.md promises. The leader releases the Lease, and the standby looks at it once
a second."""
KILL_SECONDS = 15.0
"""The same. The Lease expires 10 s after the standby has seen it renewed. With two of its looks
these are 12 s; the rest is for a busy API server."""


@dataclass
class Process:
    """One operator process."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its endpoints; status 0 if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def leads(self) -> bool:
        """Whether it is the leader, by its metrics."""
        return "qwen_operator_leader 1.0" in self.get("/metrics")[1]

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def operator_process(
    name: str, kubeconfig: Path, folder: Path, lease: str, namespaces: str, *, wait: bool = True
) -> Iterator[Process]:
    """Starts an operator. With `wait`, returns when its endpoint answers."""
    [port] = free_ports(1)
    env = {
        **os.environ,
        **IMAGES,
        "PYTHONPATH": str(SOURCE),
        "KUBECONFIG": str(kubeconfig),
        "QWEN_OPERATOR_NAMESPACE": "qwen-system",
        "QWEN_OPERATOR_POD_NAME": name,
        "QWEN_OPERATOR_LEASE_NAME": lease,
        "QWEN_OPERATOR_METRICS_PORT": str(port),
        "QWEN_OPERATOR_WATCH_NAMESPACES": namespaces,
    }
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen([sys.executable, "-m", "qwen_operator"], env=env, stdout=output, stderr=output)
        process = Process(popen, port, log)
        try:
            if wait:
                wait_until(f"{name} answers", lambda: process.get("/healthz")[0] == 200, seconds=30)
            yield process
        finally:
            stop(popen)


def takes_over(successor: Process, api: AdminApi, began: float, promised: float, name: str) -> None:
    """Waits until a process leads and has made a Deployment, in time after the other one ended."""
    latest = began + promised + BUSY_SECONDS
    wait_until("the successor leads", successor.leads, seconds=latest - time.monotonic(), pause=0.05)
    api.create(qwen_service(name))
    latest += STARTS_SECONDS
    wait_until("the successor acts", lambda: api.deployment(name), seconds=latest - time.monotonic())


def in_time(handover: Callable[[int], None]) -> None:
    """One of three is in time: a busy machine makes one late, a slow operator all of them."""
    for number in (1, 2):
        try:
            return handover(number)
        except TimeoutError:
            continue
    return handover(3)


@pytest.fixture
def lease(plane: ControlPlane) -> Iterator[str]:
    """The name of the Lease in the chart. The Lease is deleted after the test."""
    name = "qwen-operator"
    yield name
    plane.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/qwen-system/leases/{name}")


def test_the_leader_works_cluster_wide_and_hands_over_when_it_stops(
    plane: ControlPlane, api: AdminApi, operator_kubeconfig: Path, tmp_path: Path, lease: str
) -> None:
    def handover(number: int) -> None:
        news = f"news-{number}"
        with operator_process("one", operator_kubeconfig, tmp_path, lease, "") as one:
            wait_until("one leads", one.leads)
            with operator_process("two", operator_kubeconfig, tmp_path, lease, "") as two:
                wait_until("two stands by", lambda: two.get("/readyz")[0] == 200)
                assert not two.leads()
                api.create(qwen_service(news))
                wait_until("one works", lambda: api.deployment(news))
                wait_until("one is ready", lambda: one.get("/readyz")[0] == 200)
                assert one.get("/healthz") == (200, '{"overdue": []}')
                started = time.monotonic()
                one.popen.send_signal(signal.SIGTERM)
                takes_over(two, api, started, TERM_SECONDS, f"late-{number}")
                assert one.popen.wait(30) == 0  # the grace period of the chart
                api.patch("apps/v1", "deployments", news, {"spec": {"replicas": 4}})
                wait_until("two works", lambda: (api.deployment(news) or {})["spec"]["replicas"] == 1)
            lines = one.lines() + two.lines()
            assert [line for line in lines if "forbidden" in line["message"].lower()] == []
            assert [line for line in lines if line["level"] == "error"] == []

    in_time(handover)


def test_the_standby_takes_over_from_a_leader_that_was_killed(
    api: AdminApi, operator_kubeconfig: Path, tmp_path: Path, lease: str
) -> None:
    def handover(number: int) -> None:
        with operator_process("one", operator_kubeconfig, tmp_path, lease, "") as one:
            wait_until("one leads", one.leads)
            with operator_process("two", operator_kubeconfig, tmp_path, lease, "") as two:
                wait_until("two stands by", lambda: two.get("/readyz")[0] == 200)
                started = time.monotonic()
                one.popen.kill()
                takes_over(two, api, started, KILL_SECONDS, f"late-{number}")

    in_time(handover)


def test_fifty_namespaces_leave_connections_for_the_calls_and_the_lease(
    plane: ControlPlane, api: AdminApi, operator_kubeconfig: Path, tmp_path: Path, lease: str
) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/qwen-system/leases/{lease}"

    def renewed() -> str:
        return str(plane.request("GET", path)["spec"]["renewTime"])

    others = ",".join(f"team-{number}" for number in range(49))
    with operator_process("one", operator_kubeconfig, tmp_path, lease, f"{others},{api.namespace}") as one:
        wait_until("it is ready", lambda: one.get("/readyz")[0] == 200, seconds=60)
        api.create(qwen_service())
        wait_until("the Deployment", api.deployment, seconds=60)
        first = renewed()
        wait_until("the Lease is renewed", lambda: renewed() != first, seconds=10)
        second = renewed()
        wait_until("the Lease is renewed again", lambda: renewed() != second, seconds=10)
        assert one.leads()
        assert one.get("/healthz") == (200, '{"overdue": []}')


def test_a_process_that_loses_the_lease_ends(
    plane: ControlPlane, operator_kubeconfig: Path, tmp_path: Path, lease: str
) -> None:
    with operator_process("one", operator_kubeconfig, tmp_path, lease, "default") as one:
        wait_until("one leads", one.leads)
        wait_until("one is ready", lambda: one.get("/readyz")[0] == 200)
        path = f"/apis/coordination.k8s.io/v1/namespaces/qwen-system/leases/{lease}"
        taken = {"spec": {"holderIdentity": "someone-else", "renewTime": "2099-01-01T00:00:00.000000Z"}}
        plane.request("PATCH", path, taken, "application/merge-patch+json")
        assert one.popen.wait(20) == 1
        held = plane.request("GET", path)
        assert held["spec"]["holderIdentity"] == "someone-else"


def test_the_service_account_can_do_no_more_than_the_operator_needs(
    plane: ControlPlane, operator_kubeconfig: Path
) -> None:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": "system:serviceaccount:qwen-system:qwen-operator"},
    }

    def may(verb: str, group: str, resource: str, subresource: str = "", namespace: str = "default") -> bool:
        what = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace,
        }
        body = {**review, "spec": {**review["spec"], "resourceAttributes": what}}  # type: ignore[dict-item]
        answer = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer["status"]["allowed"])

    assert may("patch", "qwen-vllm.io", "qwenservices", "status")
    assert may("create", "", "pods", "eviction")
    # OwnerReferencesPermissionEnforcement needs this in clusters that enable it.

    assert may("update", "qwen-vllm.io", "qwenservices", "finalizers")
    assert not may("patch", "qwen-vllm.io", "qwenservices")
    assert not may("delete", "", "pods")
    assert not may("create", "", "pods")
    assert not may("get", "", "secrets")
    assert not may("list", "", "secrets")
    assert not may("get", "", "pods", "log")
    assert not may("update", "coordination.k8s.io", "leases", namespace="default")


def test_bad_settings_end_the_process_with_the_name(operator_kubeconfig: Path) -> None:
    env = {**os.environ, **IMAGES, "PYTHONPATH": str(SOURCE), "QWEN_OPERATOR_LOG_FORMAT": "xml"}
    command = [sys.executable, "-m", "qwen_operator"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert "log-format" in result.stderr
    assert "Traceback" not in result.stderr
