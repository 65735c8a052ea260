"""This checkout's operator on the cluster of the tests."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import builds
from tests.cluster.clusters import for_tests
from tests.cluster.demo import Client, install_operator
from tests.cluster.settings import Settings
from tests.e2e.kubectl import Kubectl, restricted_namespace


@contextmanager
def installed(settings: Settings) -> Iterator[Client]:
    """The cluster with both images, the monitoring CRDs and the operator.

    One process at a time has it: another one would replace the operator. Raises Problem.
    """
    chosen = for_tests(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        chosen.prepare()
        builds.ensure_crds(settings)
        client = Client(chosen)
        client.kubectl("apply", "--server-side", "-f", str(builds.crds(settings)))
        client.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        kubectl_in(settings, "qwen-system").apply(restricted_namespace("qwen-system"))
        install_operator(client)
        yield client


def kubectl_in(cluster: Settings, namespace: str) -> Kubectl:
    """kubectl in a namespace of the chosen cluster."""
    return Kubectl(Path(for_tests(cluster).kubectl), cluster.checkout_kubeconfig, namespace)
