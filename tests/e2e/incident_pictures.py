"""Plays an incident on the local cluster and draws the dashboards from what Prometheus saw of it.

`make pictures`, or `python -m tests.e2e.incident_pictures --output FOLDER`: two pods with the real
vLLM are under load, the engine of one of them stops as if it hung, and the operator takes the pod
out of rotation, restarts it and takes it back. This takes about a quarter of an hour, most of it
for the starts and for quiet minutes before and after. Exit codes: 0 if all pictures are written, 1
if the incident took another course, or if Prometheus refuses a query.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
from charts.pictures.__main__ import main as draw

from tests.cluster import network
from tests.cluster.console import Problem, complain, say, step
from tests.cluster.demo import Client
from tests.cluster.prometheus_stack import RELEASE
from tests.cluster.settings import ROOT, Settings
from tests.e2e import pod_processes
from tests.e2e.clients import keep_alive_load, restarts, service_url
from tests.e2e.installed import installed
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.monitored import label_operator, own_namespace
from tests.e2e.prometheus import Prometheus, prometheus_operator, start
from tests.e2e.services import qwen_service

NAMESPACE, NAME = "news", "news-classifier"
PODS = 2
RATE = 2
"""Requests a second, which one pod can answer while the other one starts."""
QUIET_SECONDS = 120
"""Before the engine stops, and after the pod is back."""
SCRAPE_SECONDS = 5
RATE_INTERVAL = "30s"
"""The window of the rates in the panels: at least four scrapes."""
RULES = {
    "alerts": [{"name": "EngineUnresponsive", "threshold": 8}],
    "remediation": {
        "rules": [{"alert": "EngineUnresponsive", "action": "Restart", "for": "5s"}],
        "recoverAfter": "4s",
        "restartMethod": "InPlace",
        "backoff": {"base": "1s", "max": "10s"},
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures", help="folder (docs/pictures)")
    output: Path = parser.parse_args(arguments).output
    settings = Settings.from_env()
    try:
        with installed(settings) as client:
            return play(settings, client, output)
    except (AssertionError, Problem) as error:
        complain(error if isinstance(error, Problem) else Problem(str(error), "run it again on a quiet machine"))
        return 1


def play(settings: Settings, client: Client, output: Path) -> int:
    """Plays the incident and draws it. Returns the exit code. Raises AssertionError."""
    label_operator(client)
    with prometheus_operator(settings) as images, own_namespace(settings, NAMESPACE, unique=False) as kubectl:
        monitoring = {"interval": f"{SCRAPE_SECONDS}s", "labels": RELEASE}
        kubectl.apply(qwen_service(NAME, replicas=PODS, monitoring=monitoring, **RULES))
        with step(f"wait until {PODS} pods are ready"):
            kubectl.wait_ready(NAME, replicas=PODS, timeout=600)
        prometheus = start(settings, images, [])
        wait_for(lambda: sees_pods(prometheus), 90, "Prometheus does not see the pods")
        begun = time.time()
        with keep_alive_load(settings, service_url(kubectl, NAME), RATE):
            time.sleep(QUIET_SECONDS)
            hang(kubectl)
            time.sleep(QUIET_SECONDS)
        return pictures(settings, prometheus, begun, output)


def sees_pods(prometheus: Prometheus) -> bool:
    """Whether the targets of all pods are up."""
    return prometheus.value(f'max by (pod) (up{{namespace="{NAMESPACE}"}})') == PODS


def hang(kubectl: Kubectl) -> None:
    """Stops the engine of a pod, and waits until the restarted pod gets requests again."""
    pod = kubectl.pods(NAME)[0]
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    pod_processes.send(signal.SIGSTOP, pod_processes.pids(pod, "VLLM::EngineCore"))
    say(f"the engine of {name} hangs")
    with step("wait until the pod is out of rotation"):
        wait_for(lambda: address not in kubectl.endpoints(NAME), 60, "the hung pod stays in rotation")
    with step("wait until it is restarted and back"):
        wait_for(lambda: restarts(kubectl, name) == 1, 90, "the hung pod was not restarted")
        wait_for(lambda: len(kubectl.endpoints(NAME)) == PODS, 300, "the restarted pod did not come back")


def pictures(settings: Settings, prometheus: Prometheus, begun: float, output: Path) -> int:
    """Draws all dashboards from `begun` until now. Returns the exit code of that command."""
    options = {
        "--prometheus": f"http://{prometheus.pod['status']['podIP']}:9090",
        "--start": moment(begun),
        "--end": moment(time.time()),
        "--namespace": NAMESPACE,
        "--service": NAME,
        "--rate-interval": RATE_INTERVAL,
        "--output": str(output),
    }
    arguments = [part for option in options.items() for part in option]
    # With a transport of its own, no proxy of the environment is asked.
    return network.inside(settings.netns, lambda: draw(arguments, httpx.HTTPTransport()))


def moment(seconds: float) -> str:
    """A time since the epoch in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    sys.exit(main())
