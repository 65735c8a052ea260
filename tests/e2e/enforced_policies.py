"""NetworkPolicies that are in force on the local node, and connections from inside of pods.

kube-network-policies, which enforces them beside any network plugin, needs nftables' queue, which
kernels of sandboxes often lack. So they become rules of iptables: see tests/cluster/policies.py.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import network, policies
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import output
from tests.e2e import pod_processes
from tests.e2e.kubectl import Kubectl, Object

# The ways of what a pod sends: to another pod or outside, and to the node.
HOOKS = ("FORWARD", "INPUT")
LISTED, KINDS = "networkpolicies,pods,namespaces", ("NetworkPolicy", "Pod", "Namespace")
SYNC_SECONDS = 1.0


@contextmanager
def enforced(cluster: Settings, kubectl: Kubectl) -> Iterator[None]:
    """Enforces all NetworkPolicies of the cluster during the block. Follows changes in seconds."""
    # What pods on one bridge send to each other passes iptables, too. That is the kernel's default.
    output([*cluster.nsenter(), "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])
    agent = _Agent(cluster, kubectl)
    agent.sync()
    try:
        for hook in HOOKS:
            output([*cluster.nsenter(), "iptables", "--wait", "--insert", hook, "--jump", policies.ENTRY])
        with agent.following():
            yield
    finally:
        agent.remove()


class _Agent:
    """Translates the policies again and again, because pods come and go."""

    def __init__(self, cluster: Settings, kubectl: Kubectl) -> None:
        self._cluster, self._kubectl = cluster, kubectl
        self._text = ""
        self._chains: set[str] = set()

    def sync(self) -> None:
        items = json.loads(self._kubectl.run("get", LISTED, "--all-namespaces", "-o", "json"))["items"]
        listed, pods, namespaces = ([item for item in items if item["kind"] == kind] for kind in KINDS)
        chains = policies.chains(listed, pods, namespaces)
        text = policies.restore_text(chains)
        if text != self._text:
            self._chains |= chains.keys()
            self._restore(text)
            self._text = text

    def remove(self) -> None:
        self._restore(policies.removal_text(self._chains, HOOKS))

    @contextmanager
    def following(self) -> Iterator[None]:
        """Syncs during the block. Fails at its end if that failed."""
        stop, failures = threading.Event(), list[Exception]()

        def run() -> None:
            try:
                while not stop.wait(SYNC_SECONDS):
                    self.sync()
            except Exception as error:  # noqa: BLE001 - raised in the test's thread
                failures.append(error)

        thread = threading.Thread(target=run, name="policies")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]

    def _restore(self, text: str) -> None:
        command = [*self._cluster.nsenter(), "iptables-restore", "--wait", "--noflush"]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, f"{done.stderr}\n{text}"


def connect(pod: Object, process: str, address: str, port: int, seconds: float = 2) -> str:
    """What becomes of a new connection from the pod's network: open, refused or dropped.

    process: how the command line of a process in the pod begins.
    """
    inside = Path("/proc", str(pod_processes.pids(pod, process)[0]), "ns", "net")

    def attempt() -> str:
        try:
            socket.create_connection((address, port), timeout=seconds).close()
        except TimeoutError:
            return "dropped"
        except ConnectionRefusedError:
            return "refused"
        return "open"

    return network.inside(inside, attempt)


def documented_values() -> dict[str, Any]:
    """The chart's values for the operator's own NetworkPolicy, as docs/operations.md gives them."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("\n## NetworkPolicies\n")[1].split("\n## ")[0]
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)]
    [values] = [block for block in blocks if "networkPolicy" in block]
    found: dict[str, Any] = values
    return found
