"""Fixtures of the integration tests: clients of a real server, a control plane, the operator."""

from __future__ import annotations

import importlib
import os
import re
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from xdist.scheduler import LoadFileScheduling

from tests.cluster.settings import ROOT
from tests.integration.admin_api import AdminApi
from tests.integration.chart_releases import CHART, CRD, helm
from tests.integration.control_plane import ControlPlane, control_plane, wait_until
from tests.integration.fake_pods import FakePodServers
from tests.integration.operator_thread import OperatorThread
from tests.integration.server_process import ServerProcess

SHOWN_LINES = 30
# Without the patches, the first grammar takes most of a minute.
CLIENT_SECONDS = 300
# Modules that share a server or a control plane, each of which takes most of a minute to start.
TOGETHER = ("tests/integration/clients/", "tests/integration/test_operator_", "tests/integration/test_chart_")
# What takes longest begins first, so that no process ends long after the others.
LONGEST = (
    *("test_operator_", "test_chart_", "test_vllm_alarms.py", "test_vllm_server.py", "clients/"),
    *("test_vllm_endings.py", "test_vllm_overload.py", "test_vllm_patches_off.py", "test_vllm_traces.py"),
)
# The garbage collector of a new control plane knows the definitions only after half a minute.
LATE = "test_operator_backup.py"
LINES_BEFORE = pytest.StashKey[dict[ServerProcess, int]]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each process whole modules, and those that belong together to one process."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # by the number of tests
    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = scope_of
    return scheduler


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the modules by when they are to begin; within a module nothing changes."""
    items.sort(key=lambda item: place_of(item.nodeid))


def place_of(nodeid: str) -> tuple[int, bool]:
    """When a test is to begin, in comparison with others."""
    module = nodeid.split("::", 1)[0].removeprefix("tests/integration/")
    place = next((place for place, start in enumerate(LONGEST) if module.startswith(start)), len(LONGEST))
    return place, module == LATE


def scope_of(nodeid: str) -> str:
    """The modules that one process runs: a module, or all that belong together."""
    module = nodeid.split("::", 1)[0]
    return next((folder for folder in TOGETHER if module.startswith(folder)), module)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember how much each server had logged before the test."""
    item.stash[LINES_BEFORE] = {server: len(server.lines) for server in ServerProcess.latest}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the log that the servers wrote during a failed test to its report."""
    report = yield
    if report.failed:
        before = item.stash.get(LINES_BEFORE, {})
        for server in ServerProcess.latest:
            if lines := server.lines[before.get(server, 0) :]:
                report.sections.append((f"log of {server.url}", "".join(lines[-SHOWN_LINES:])))
    return report


@pytest.fixture(scope="module")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=CLIENT_SECONDS, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def sdk(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=CLIENT_SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_sdk(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=CLIENT_SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def vllm_without_side_effects() -> Iterator[None]:
    """Imports vLLM into this process, quietly.

    Changes of the environment by vLLM's use are undone after the module; those of its import stay,
    because it is not imported again.
    """
    name = "VLLM_CONFIGURE_LOGGING"
    own = {name: os.environ[name]} if name in os.environ else {}
    os.environ[name] = "0"
    importlib.import_module("vllm")
    after = {key: value for key, value in os.environ.items() if key != name} | own
    yield
    os.environ.clear()
    os.environ.update(after)


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A separate control plane for the tests of the chart, which add and remove the CRD."""
    with control_plane(tmp_path_factory.mktemp("chart")) as running:
        yield running


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """The Helm program of a test of the chart."""
    return str(getattr(request, "param", "helm"))


@pytest.fixture
def installed(empty: ControlPlane, program: str) -> Iterator[ControlPlane]:
    """The chart with its defaults; it is removed completely afterwards."""
    helm(empty, "install", "qwen-operator", CHART, "--create-namespace", program=program)
    empty.wait_for_definition(CRD)
    yield empty
    helm(empty, "uninstall", "qwen-operator", "--ignore-not-found", program=program)
    empty.kubectl("delete", "crd", CRD, "--ignore-not-found")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the operator installed from manifests/install.yaml."""
    with control_plane(tmp_path_factory.mktemp("control-plane")) as running:
        running.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / "install.yaml"))
        running.wait_for_definition("qwenservices.qwen-vllm.io")
        yield running


@pytest.fixture(scope="session")
def operator_kubeconfig(plane: ControlPlane) -> Path:
    """A kubeconfig with only the rights of the chart's ServiceAccount."""
    return plane.write_kubeconfig("operator", plane.service_account_token("qwen-system", "qwen-operator"))


@pytest.fixture
def api(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[AdminApi]:
    """An administrator's access to a new namespace."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.removeprefix("test_").lower())
    name = f"{words[:50].strip('-')}-{uuid.uuid4().hex[:6]}"
    api = AdminApi(plane, name)
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield api
    plane.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def servers() -> Iterator[FakePodServers]:
    """The HTTP servers of pods, by address."""
    with FakePodServers() as running:
        yield running


@pytest.fixture
def operator(
    plane: ControlPlane,
    api: AdminApi,
    servers: FakePodServers,
    operator_kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[OperatorThread]:
    """The operator in the test's namespace, with the rights of the chart's ServiceAccount."""
    monkeypatch.setenv("KUBECONFIG", str(operator_kubeconfig))
    wait_until(
        "the namespace has its ServiceAccount",
        lambda: api.objects("v1", "serviceaccounts"),
    )
    with OperatorThread(operator_kubeconfig, api.namespace, servers.url_of) as running:
        yield running
