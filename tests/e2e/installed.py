"""This checkout's operator on the local cluster."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import builds
from tests.cluster.clusters import Local
from tests.cluster.demo import Client, install_operator
from tests.cluster.settings import Settings


@contextmanager
def installed(settings: Settings) -> Iterator[Client]:
    """The local cluster with both images, the monitoring CRDs and the operator.

    One process at a time has it: another one would replace the operator. Raises Problem.
    """
    local = Local(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        local.prepare()
        builds.ensure_crds(settings)
        client = Client(local)
        client.kubectl("apply", "--server-side", "-f", str(builds.crds(settings)))
        client.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        install_operator(client)
        yield client
