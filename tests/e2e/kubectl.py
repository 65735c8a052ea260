"""kubectl for the end-to-end tests: plain dicts, waits with a deadline, diagnosis of failures."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Object = dict[str, Any]
# Not the pod of `helm test`, which stays until the next one.
OPERATOR_PODS = "app.kubernetes.io/name=qwen-operator,app.kubernetes.io/component=operator"
T = TypeVar("T")


class KubectlError(AssertionError):
    """kubectl failed; the message is its standard error."""


@dataclass(frozen=True)
class Kubectl:
    """A namespace of a cluster, accessed through kubectl."""

    program: Path
    kubeconfig: Path
    namespace: str = "default"

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """kubectl's standard output. Raises KubectlError."""
        command = [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments[:4])}: {done.stderr.strip()}")
        return done.stdout

    def get(self, kind: str, name: str) -> Object:
        """One object. Raises KubectlError if it does not exist."""
        found: Object = json.loads(self.run("get", kind, name, "-o", "json"))
        return found

    def find(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind that the selector matches."""
        items: list[Object] = json.loads(self.run("get", kind, "-l", selector, "-o", "json"))["items"]
        return items

    def apply(self, *objects: Mapping[str, Any]) -> str:
        """`kubectl apply` of the objects."""
        return self.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def create_namespace(self) -> None:
        """Creates the namespace. It enforces the restricted Pod Security Standard."""
        self.apply(restricted_namespace(self.namespace))

    def pods(self, service: str) -> list[Object]:
        """The pods of a QwenService that are not being deleted, by name."""
        pods = self.find("pods", f"qwen-vllm.io/service={service}")
        return sorted(
            (p for p in pods if "deletionTimestamp" not in p["metadata"]), key=lambda p: p["metadata"]["name"]
        )

    def endpoints(self, service: str) -> set[str]:
        """Addresses that get the Service's traffic: ready in its EndpointSlices."""
        slices = self.find("endpointslices", f"kubernetes.io/service-name={service}")
        ready = [e for s in slices for e in s.get("endpoints") or () if e["conditions"].get("ready")]
        return {address for endpoint in ready for address in endpoint["addresses"]}

    def condition(self, name: str, kind: str) -> Object:
        """A condition of a QwenService; an empty one until it is reported."""
        conditions = self.get("qwenservice", name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {"status": "", "reason": "", "message": ""})

    def wait_reason(self, name: str, kind: str, reason: str, timeout: float) -> str:
        """Waits until a condition of a QwenService has this reason. Returns its message."""
        wait_for(
            lambda: self.condition(name, kind)["reason"] == reason,
            timeout,
            lambda: f"{kind} is {self.condition(name, kind)}",
        )
        return str(self.condition(name, kind)["message"])

    def wait_ready(self, name: str, replicas: int = 1, timeout: float = 420) -> None:
        """Waits until the QwenService is Ready with this many replicas."""

        def ready() -> bool:
            status = self.get("qwenservice", name).get("status", {})
            enough: bool = status.get("readyReplicas", 0) >= replicas
            return enough and bool(self.condition(name, "Ready")["status"] == "True")

        wait_for(ready, timeout, lambda: f"{name} is not ready: {self.condition(name, 'Ready')}")

    def events(self, name: str) -> list[str]:
        """The reasons of an object's events, oldest first."""
        events = [e for e in self.find("events") if e.get("involvedObject", {}).get("name") == name]
        return [e["reason"] for e in sorted(events, key=lambda e: e["metadata"]["creationTimestamp"])]

    def diagnosis(self) -> str:
        """The commands that a person would run after a failure, with their output."""
        parts = []
        for arguments in (
            ("get", "qwenservices,deployments,pods,endpointslices", "-o", "wide"),
            ("describe", "qwenservices"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", "app.kubernetes.io/name=qwen-server", "--tail=40", "--prefix"),
            ("logs", "-n", "qwen-system", "-l", OPERATOR_PODS, "--tail=80", "--prefix"),
        ):
            try:
                parts.append(f"$ kubectl {' '.join(arguments)}\n{self.run(*arguments)}")
            except (KubectlError, subprocess.TimeoutExpired) as error:
                parts.append(f"$ kubectl {' '.join(arguments)}\n{error}")
        return "\n".join(parts)


def restricted_namespace(name: str) -> Object:
    """A namespace that refuses pods below the restricted Pod Security Standard."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def wait_for(check: Callable[[], T], timeout: float, what: str | Callable[[], str], interval: float = 0.5) -> T:
    """Returns the first true value of `check`. Fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(interval)
