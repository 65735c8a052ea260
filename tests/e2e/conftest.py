"""The cluster of the end-to-end tests, with the operator, and a namespace for each test.

All of these namespaces enforce the restricted Pod Security Standard, the operator's included.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Generator, Iterator

import pytest

from tests.cluster.clusters import for_tests
from tests.cluster.demo import Client
from tests.cluster.settings import Settings
from tests.e2e.installed import installed, kubectl_in
from tests.e2e.kubectl import Kubectl
from tests.e2e.services import EXITS_WITH_ENGINE, qwen_service

REPORT = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell fixtures whether their test failed."""
    report = yield
    if report.when == "call":
        item.stash[REPORT] = report
    return report


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """The cluster with both images, the monitoring CRDs and this checkout's operator."""
    settings = Settings.from_env()
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with contextlib.ExitStack() as stack:
        with capture.global_and_fixture_disabled():  # minutes without output would look like a hang
            stack.enter_context(installed(settings))
        yield settings


@pytest.fixture(scope="session")
def client(cluster: Settings) -> Client:
    """kubectl and helm as the cluster's administrator."""
    return Client(for_tests(cluster))


@pytest.fixture
def operator(cluster: Settings) -> Kubectl:
    """kubectl in the operator's namespace."""
    return kubectl_in(cluster, "qwen-system")


@pytest.fixture
def kubectl(cluster: Settings, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a new namespace, which is deleted afterwards. Failures print a diagnosis."""
    with new_namespace(cluster, request.node.name) as kubectl:
        yield kubectl
        diagnose(kubectl, request.node)


@pytest.fixture(scope="module")
def steady_service(cluster: Settings) -> Iterator[Kubectl]:
    with new_namespace(cluster, "steady") as kubectl:
        kubectl.apply(qwen_service("steady", engine=EXITS_WITH_ENGINE))
        yield kubectl


@pytest.fixture
def steady(steady_service: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace with the ready service `steady`, which a module's tests share."""
    steady_service.wait_ready("steady")
    yield steady_service
    diagnose(steady_service, request.node)


def diagnose(kubectl: Kubectl, test: pytest.Item) -> None:
    """Prints what is in the namespace if the test failed."""
    report = test.stash.get(REPORT, None)
    if report is not None and report.failed:
        print(kubectl.diagnosis())


@contextlib.contextmanager
def new_namespace(cluster: Settings, title: str) -> Iterator[Kubectl]:
    """kubectl in a new namespace, which is deleted afterwards."""
    words = re.sub(r"[^a-z0-9]+", "-", title.removeprefix("test_").lower())
    namespace = f"{words[:40].strip('-')}-{uuid.uuid4().hex[:6]}"
    kubectl = kubectl_in(cluster, namespace)
    kubectl.create_namespace()
    yield kubectl
    # All at once, so that the next test gets the whole node.
    kubectl.run("delete", "qwenservices", "--all", "--wait=false")
    kubectl.run("delete", "pods", "--all", "--grace-period=1", "--wait=true")
    kubectl.run("delete", "namespace", namespace, "--wait=false")
