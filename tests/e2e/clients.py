"""Clients with keep-alive connections, and what they and the pods have seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from tests.cluster.settings import ROOT, Settings
from tests.e2e.kubectl import Kubectl, Object


@dataclass(frozen=True)
class Program:
    """A running program. It writes to a file, because a pipe that nobody reads would stop it."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def so_far(self) -> list[dict[str, Any]]:
        """The lines that it has written."""
        # It writes at the position in the file, which this must not move.
        file = self.output.fileno()
        whole = os.pread(file, os.fstat(file).st_size, 0).rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def finished(self, seconds: float) -> list[dict[str, Any]]:
        """All its lines, when it has ended by itself."""
        self.process.wait(timeout=seconds)
        return self.so_far()


@dataclass(frozen=True)
class Load(Program):
    """A running load."""

    rate: float
    """Requests a second."""


@contextmanager
def keep_alive_load(
    cluster: Settings, url: str, rate: float = 5, text: str | None = None, *, timeout: float = 30
) -> Iterator[Load]:
    """Sends so many requests a second through kube-proxy during the block.

    A request without an answer after `timeout` seconds has failed.
    """
    flags = [f"--url={url}", f"--rate={rate}", f"--timeout={timeout}", *([] if text is None else ["--text", text])]
    with _running(cluster, "tests.e2e.keep_alive_load", *flags) as program:
        yield Load(program.process, program.output, rate)


@contextmanager
def long_streams(cluster: Settings, url: str, count: int, tokens: int) -> Iterator[Program]:
    """Streams so many answers from one server at a time, each of so many tokens."""
    flags = (f"--url={url}", f"--count={count}", f"--tokens={tokens}")
    with _running(cluster, "tests.e2e.long_streams", *flags) as program:
        yield program


@contextmanager
def _running(cluster: Settings, module: str, *flags: str) -> Iterator[Program]:
    """Runs a program of this folder in the cluster's network, at most for the block."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([*cluster.nsenter(), sys.executable, "-m", module, *flags], cwd=ROOT, stdout=output)
        try:
            yield Program(process, output)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:  # it waits for answers, and the test has failed
                process.kill()
                process.wait(timeout=30)


def results(load: Load) -> list[dict[str, Any]]:
    """Stops the load and returns its requests. Fails if they did not keep to its rate."""
    stopped = time.time()
    load.process.send_signal(signal.SIGTERM)
    load.process.wait(timeout=30)
    requests = load.so_far()
    assert requests, "the load sent nothing"
    due = load.rate * (stopped - min(request["start"] for request in requests))
    assert len(requests) >= 0.9 * due - 1, f"the load stood still: {len(requests)} of {due:.0f} requests"
    return requests


def check_that_each_served(requests: Sequence[Mapping[str, Any]], *generations: Sequence[Object]) -> None:
    """Asserts that a pod of each generation has answered.

    Clients that send one request at a time keep one connection, and so one pod of each.
    """
    served = {request["pod"] for request in requests if request["status"] == 200}
    for number, pods in enumerate(generations):
        addresses = {pod["status"]["podIP"] for pod in pods}
        assert served & addresses, f"no request led to generation {number}: {addresses}, but to {served}"


def uids(pods: Sequence[Object]) -> set[str]:
    """The UIDs of pods."""
    return {pod["metadata"]["uid"] for pod in pods}


def replaced(kubectl: Kubectl, name: str, old: Sequence[Object]) -> bool:
    """Whether two new pods of a service serve and no old one exists."""
    pods = kubectl.find("pods", f"qwen-vllm.io/service={name}")
    return not uids(old) & uids(pods) and len(kubectl.endpoints(name)) == 2


def service_url(kubectl: Kubectl, name: str) -> str:
    """The URL of a service for clients on the cluster's network."""
    return f"http://{kubectl.get('service', name)['spec']['clusterIP']}:8000"


def restarts(kubectl: Kubectl, pod: str) -> int:
    """How often the kubelet has restarted the pod's server."""
    count: int = kubectl.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"]
    return count
