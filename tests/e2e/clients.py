"""Clients with keep-alive connections, and what they and the pods have seen."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.settings import ROOT, Settings
from tests.e2e.kubectl import Kubectl


@contextmanager
def keep_alive_load(
    cluster: Settings, url: str, workers: int = 4, text: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Sends requests through kube-proxy during the block, a connection for each worker."""
    program = [sys.executable, "-m", "tests.e2e.keep_alive_load", "--url", url, "--workers", str(workers)]
    program += [] if text is None else ["--text", text]
    load = subprocess.Popen([*cluster.nsenter(), *program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield load
    finally:
        load.terminate()
        load.wait(timeout=30)


def results(load: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Stops the load and returns its requests."""
    load.send_signal(signal.SIGTERM)
    printed, _ = load.communicate(timeout=30)
    return [json.loads(line) for line in printed.splitlines()]


def service_url(kubectl: Kubectl, name: str) -> str:
    """The URL of a service for clients on the cluster's network."""
    return f"http://{kubectl.get('service', name)['spec']['clusterIP']}:8000"


def restarts(kubectl: Kubectl, pod: str) -> int:
    """How often the kubelet has restarted the pod's server."""
    count: int = kubectl.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"]
    return count
