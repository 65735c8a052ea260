"""What is measured of one operator, from its first start to the death of its leader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.cluster.settings import ROOT
from tests.integration.control_plane import ControlPlane, control_plane, stop, wait_until

from benchmarks.console import say
from benchmarks.operators.audit import AuditLog, policy
from benchmarks.operators.kubelet import PORT
from benchmarks.operators.process import OperatorProcess, operator, until_ready
from benchmarks.operators.subjects import LEASE, NAMESPACE, REPLICAS, SOURCE, Ours, Subject

Object = dict[str, Any]
Figures = dict[str, float]

CHILDREN_SECONDS: Final = 900.0
REST_SECONDS: Final = 5.0
REST_AT_MOST: Final = 90.0
EVENTS_AT_MOST: Final = 180.0
"""Seconds until the Events of the start must be written, which wait for their turn."""
READY_SECONDS: Final = 600.0
_CALM: Final = 1.2
"""How much more CPU than in the quiet minute an operator may use that has nothing to do."""
_LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/qwen-system/leases/{LEASE}"


@dataclass(frozen=True)
class Options:
    """How much is measured: services, seconds of the quiet time, and whether pods run."""

    services: int
    quiet: float = 60.0
    pods: bool = True


@dataclass
class Bench:
    """One operator in a cluster of its own."""

    subject: Subject
    plane: ControlPlane
    log: AuditLog
    folder: Path
    options: Options
    figures: Figures = field(default_factory=dict)

    def note(self, **figures: float) -> None:
        """Records figures."""
        self.figures.update(figures)

    def count(self, path: str) -> int:
        """The number of objects in a collection, which is not read as a whole."""
        answer = self.plane.request("GET", f"{path}?limit=1")
        return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount") or 0)

    def rest(self) -> bool:
        """Waits until the operator has nothing to do."""
        return self.log.rest(REST_SECONDS, REST_AT_MOST)

    def quiet(self) -> bool:
        """Waits until it has not even an Event to write."""
        return self.log.rest(REST_SECONDS, EVENTS_AT_MOST, events=True)


@contextmanager
def bench(subject: Subject, folder: Path, options: Options) -> Iterator[Bench]:
    """A new cluster with an operator's definitions, which records what the operator asks for."""
    folder.mkdir(parents=True)
    (folder / "audit-policy.yaml").write_text(policy([subject.user]), encoding="utf-8")
    log = folder / "audit.log"
    flags = [
        f"--audit-policy-file={folder / 'audit-policy.yaml'}",
        f"--audit-log-path={log}",
        "--audit-log-maxsize=4000",
    ]
    with control_plane(folder, flags) as plane:
        subject.install(plane)
        plane.wait_for_definition(subject.definition)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        plane.request("POST", "/api/v1/namespaces", namespace)
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        wait_until("the namespace has its ServiceAccount", lambda: plane.request("GET", accounts)["items"])
        yield Bench(subject, plane, AuditLog(log), folder, options)


def measure(subject: Subject, folder: Path, options: Options) -> Figures:
    """All figures of one operator. Raises RuntimeError, OSError or TimeoutError if it fails."""
    _compile(subject)
    with bench(subject, folder, options) as cluster:
        say(f"{subject.name}: creating {options.services} objects")
        for number in range(options.services):
            _create(cluster, f"s{number:04}")
        with operator(subject, cluster.plane, folder, "first") as process:
            _first_start(cluster, process)
            with _kubelet(cluster) if options.pods else nullcontext():
                if options.pods:
                    _pods(cluster, process)
                _quiet(cluster, process)
                process.stop()
                _restart(cluster)
                if isinstance(subject, Ours):
                    _hand_over(cluster)
        return cluster.figures


def _compile(subject: Subject) -> None:
    """Imports the operator once, so that the first start does not have to compile it."""
    if isinstance(subject, Ours):
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        subprocess.run([sys.executable, "-c", "import qwen_operator.__main__"], env=environment, check=True)


def _create(cluster: Bench, name: str) -> None:
    """Creates an object of the operator."""
    cluster.plane.request("POST", cluster.subject.objects, cluster.subject.body(name))


def _first_start(cluster: Bench, process: OperatorProcess) -> None:
    """The operator meets objects that nobody has served."""
    subject, services = cluster.subject, cluster.options.services
    for path in subject.children:
        _wait(f"all {path.rpartition('/')[2]}", partial(_all_exist, cluster, path), process)
    seconds, asked = time.monotonic() - process.began, cluster.log.since()
    say(f"{subject.name}: all children after {seconds:.1f} s, {asked.total / services:.2f} requests each")
    rested = cluster.rest()
    settled = cluster.log.since()
    say(f"{subject.name}: {'at rest' if rested else 'not at rest'}, {settled.total / services:.2f} requests each")
    cluster.note(
        children_seconds=seconds,
        children_requests=asked.total / services,
        settled_requests=settled.total / services,
        settled_events=settled.events / services,
        settled_cpu=process.cpu(),
        settled_memory=process.memory(),
        unrest=float(not rested),
    )


def _all_exist(cluster: Bench, path: str) -> bool:
    return cluster.count(path) >= cluster.options.services


def _pods(cluster: Bench, process: OperatorProcess) -> None:
    """All pods start and become ready."""
    pods = cluster.options.services * REPLICAS
    mark, began, cpu = cluster.log.mark(), time.monotonic(), process.cpu()
    _wait("all pods are ready", lambda: _ask_kubelet("ready").get("ready", 0) >= pods, process, READY_SECONDS)
    say(f"{cluster.subject.name}: {pods} pods are ready after {time.monotonic() - began:.1f} s")
    ready = time.monotonic()
    cluster.rest()
    cluster.note(
        pods_requests=cluster.log.since(mark).total / cluster.options.services,
        pods_cpu=process.cpu() - cpu,
    )
    # Until then the conditions of each service change once more, whatever is measured next.
    time.sleep(max(0.0, cluster.subject.min_ready_seconds + REST_SECONDS - (time.monotonic() - ready)))


def _quiet(cluster: Bench, process: OperatorProcess) -> None:
    """Nothing happens."""
    cluster.note(unquiet=float(not cluster.quiet()))
    say(f"{cluster.subject.name}: {cluster.options.quiet:g} quiet seconds")
    if cluster.options.pods:
        _ask_kubelet("lags")
    mark, cpu = cluster.log.mark(), process.cpu()
    time.sleep(cluster.options.quiet)
    process.check()
    asked, minutes = cluster.log.since(mark), cluster.options.quiet / 60
    cluster.note(
        quiet_writes=asked.writes / minutes,
        quiet_reads=(asked.reads + asked.discovery) / minutes,
        quiet_watches=asked.watches / minutes,
        quiet_events=asked.events / minutes,
        quiet_cpu=(process.cpu() - cpu) / minutes,
        quiet_memory=process.memory(),
    )
    lags = _ask_kubelet("lags") if cluster.options.pods else {}
    if lags.get("polls"):
        cluster.note(polls=lags["polls"] / cluster.options.quiet, lag_p50=lags["p50"], lag_p99=lags["p99"])


def _restart(cluster: Bench) -> None:
    """The operator starts again, and nothing has changed."""
    mark = cluster.log.mark()
    with operator(cluster.subject, cluster.plane, cluster.folder, "second") as process:
        until_ready(process)
        time.sleep(REST_SECONDS)  # by then it has begun
        cluster.rest()
        asked = cluster.log.since(mark)
        say(f"{cluster.subject.name}: restarted, {asked.writes} writes")
        cluster.note(
            restart_writes=float(asked.writes),
            restart_reads=float(asked.reads + asked.discovery),
            restart_cpu=process.cpu(),
        )


def _hand_over(cluster: Bench) -> None:
    """The leader ends while another process stands by: by SIGTERM, then by SIGKILL."""
    subject, plane, folder = cluster.subject, cluster.plane, cluster.folder
    with operator(subject, plane, folder, "one") as one:
        wait_until("one leads", lambda: _holder(cluster) == "one", 60.0)
        until_ready(one)
        cluster.rest()
        with operator(subject, plane, folder, "two") as two:
            until_ready(two)
            _time_hand_over(cluster, one.terminate, "two", "term")
            until_ready(two)
            cluster.rest()
            with operator(subject, plane, folder, "three") as three:
                until_ready(three)
                _time_hand_over(cluster, two.kill, "three", "kill")
                if cluster.options.pods:
                    until_ready(three)
                    _calm(cluster, three)
                    _sicken(cluster)


def _time_hand_over(cluster: Bench, end: Callable[[], None], successor: str, how: str) -> None:
    """Times until the Lease changes hands and until a service of that moment has a Deployment."""
    name = f"late-{how}"
    began = time.monotonic()
    end()
    _create(cluster, name)
    wait_until(f"{successor} leads", lambda: _holder(cluster) == successor, 60.0, 0.02)
    led = time.monotonic() - began
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}"
    wait_until("the new service is served", lambda: _exists(cluster.plane, path), 120.0, 0.05)
    served = time.monotonic() - began
    say(f"{cluster.subject.name}: handed over ({how}) after {led:.1f} s, served after {served:.1f} s")
    cluster.figures.update({f"{how}_leads": led, f"{how}_serves": served})


def _calm(cluster: Bench, process: OperatorProcess) -> None:
    """Waits until a new leader has looked at all services: it asks for nothing, but computes."""
    most = _CALM * cluster.figures["quiet_cpu"] / 60 * REST_SECONDS
    end = time.monotonic() + REST_AT_MOST
    cpu = process.cpu()
    while time.monotonic() < end:
        time.sleep(REST_SECONDS)
        before, cpu = cpu, process.cpu()
        if cpu - before <= most:
            return


def _sicken(cluster: Bench) -> None:
    """The engine of one pod of each tenth service hangs."""
    sick = _ask_kubelet("sicken")["sick"]
    wait_until("all sick pods are out of rotation", lambda: _ask_kubelet("out").get("out", 0) >= sick, 60.0)
    found = _ask_kubelet("out")
    say(f"{cluster.subject.name}: {sick} sick pods were out of rotation within {found['p99']:.1f} s")
    cluster.note(out_p50=found["p50"], out_p99=found["p99"])


def _holder(cluster: Bench) -> str:
    try:
        return str(cluster.plane.request("GET", _LEASES)["spec"].get("holderIdentity") or "")
    except urllib.error.HTTPError:
        return ""


def _exists(plane: ControlPlane, path: str) -> bool:
    try:
        plane.request("GET", path)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def _wait(what: str, check: Callable[[], bool], process: OperatorProcess, seconds: float = CHILDREN_SECONDS) -> None:
    def alive_and_true() -> bool:
        process.check()
        return check()

    wait_until(what, alive_and_true, seconds, 0.2)


@contextmanager
def _kubelet(cluster: Bench) -> Iterator[None]:
    """Lets all pods run, see kubelet.py."""
    log = cluster.folder / "kubelet.log"
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE}:{ROOT}"}
    command = [sys.executable, "-m", "benchmarks.operators.kubelet", str(cluster.plane.kubeconfig)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
        try:
            wait_until("the kubelet answers", lambda: process.poll() is not None or _ask_kubelet("ready"), 30.0)
            if process.poll() is not None:
                raise RuntimeError(f"the pretended kubelet ended; is port {PORT} free? See {log}")
            yield
        finally:
            stop(process)


def _ask_kubelet(path: str) -> Object:
    """An answer of the pretended kubelet; empty if there is none yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{PORT}/{path}", timeout=10) as response:
            answer: Object = json.loads(response.read())
    except OSError:
        return {}
    return answer
