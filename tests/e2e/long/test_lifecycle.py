"""The life of a release while models serve: upgrade, rollback, uninstallation, and taking over.

Each test begins without an operator, and runs with Helm 3 and with Helm 4. Clients with keep-alive
connections send requests all the time: none may fail, and no pod may be touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from charts import generate

from tests.cluster import images
from tests.cluster.demo import Client, install_operator
from tests.cluster.settings import Settings
from tests.e2e import releases, scripted_pods
from tests.e2e.clients import keep_alive_load, restarts, results, service_url
from tests.e2e.conftest import diagnose, new_namespace
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.releases import CHART, NAMESPACE, put, uninstall
from tests.e2e.scripted_pods import scripted_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SERVICE = "news"
# Nothing pulls it: pods do not change because of another version of the operator alone.
NEXT_SERVER = "localhost:5000/qwen-server:next"
QUIET_SECONDS = 10  # in which clients would notice that something happens to a pod


@pytest.fixture(params=["helm", "helm4/helm"], ids=["helm3", "helm4"])
def release(request: pytest.FixtureRequest, cluster: Settings, client: Client) -> Iterator[Client]:
    """Helm 3 or 4 on a cluster without an operator. Afterwards it has this checkout's again."""
    chosen = releases.helm_client(cluster, request.param)
    releases.remove_everything(client)
    try:
        yield chosen
    finally:
        try:
            releases.remove_everything(chosen)
        finally:
            install_operator(client)


@pytest.fixture
def kubectl(release: Client, cluster: Settings, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a new namespace, which is deleted while the CRD still exists."""
    with new_namespace(cluster, request.node.name) as found:
        scripted_pods.install(found)
        yield found
        diagnose(found, request.node)


@contextmanager
def untouched(kubectl: Kubectl, cluster: Settings) -> Iterator[None]:
    """Serves two pods under load, and asserts that the block touched none and lost no request."""
    kubectl.apply(scripted_service(SERVICE, 2))
    kubectl.wait_ready(SERVICE, 2, timeout=120)
    wait_for(lambda: len(kubectl.endpoints(SERVICE)) == 2, 30, "not all pods are in the EndpointSlice")
    before = {pod["metadata"]["uid"] for pod in kubectl.pods(SERVICE)}
    with keep_alive_load(cluster, service_url(kubectl, SERVICE)) as load:
        time.sleep(3)
        yield
        requests = results(load)
    assert [request for request in requests if request["status"] != 200] == []
    pods = kubectl.pods(SERVICE)
    assert {pod["metadata"]["uid"] for pod in pods} == before
    assert [restarts(kubectl, pod["metadata"]["name"]) for pod in pods] == [0, 0]


def check_that_it_works(kubectl: Kubectl) -> None:
    """Asserts that an operator serves the namespace: it restores a deleted object."""
    kubectl.run("delete", "poddisruptionbudget", SERVICE)
    budgets = f"qwen-vllm.io/service={SERVICE}"
    wait_for(lambda: kubectl.find("poddisruptionbudgets", budgets), 60, "no operator restores a deleted budget")


def test_an_upgrade_a_rollback_and_an_uninstallation_are_not_noticed_by_clients(
    release: Client,
    kubectl: Kubectl,
    cluster: Settings,
    operator: Kubectl,
    *,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    older = releases.older_release(tmp_path)
    with capsys.disabled():
        print(f"\nupgrade from {older.origin}")
    own_operator = older.options(cluster)
    put(release, "install", older.chart, *own_operator)
    old = releases.definition_version(release)
    with untouched(kubectl, cluster):
        put(release, "upgrade", CHART, "--set", f"serverImages.cpu={NEXT_SERVER}")
        new = releases.definition_version(release)
        assert int(new) > int(old)
        kubectl.wait_reason(SERVICE, "Progressing", "UpdatePending", 60)
        check_that_it_works(kubectl)
        assert f"{kubectl.namespace}/{SERVICE} answers: " in releases.helm_test(release)

        # As docs/operations.md says: the operator goes back, and the CRD does not.
        said = releases.refusal(release, "rollback", "qwen-operator", "1", "--namespace", NAMESPACE)
        assert "The QwenService CRD does not go back to an older version" in said
        assert "crds.enabled=false" in said
        assert releases.definition_version(release) == new
        back = releases.chart_of(operator.get("deployment", "qwen-operator"))
        assert back != f"qwen-operator-{current_version()}"
        operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=110s")
        check_that_it_works(kubectl)
        without_crd = ("--reset-then-reuse-values", "--set", "crds.enabled=false")
        put(release, "upgrade", older.chart, *own_operator, *without_crd)
        assert releases.definition_version(release) == new
        check_that_it_works(kubectl)

        uninstall(release)
        time.sleep(QUIET_SECONDS)
        assert len(kubectl.endpoints(SERVICE)) == 2
        put(release, "install", CHART)
        check_that_it_works(kubectl)
    kubectl.wait_ready(SERVICE, 2, timeout=60)


def current_version() -> str:
    """The version of today's chart."""
    return str(generate.documents((CHART / "Chart.yaml").read_text(encoding="utf-8"))[0]["version"])


def test_another_release_takes_over_what_an_uninstalled_one_left(
    release: Client, kubectl: Kubectl, cluster: Settings
) -> None:
    put(release, "install", CHART)
    with new_namespace(cluster, "second") as second, untouched(kubectl, cluster):
        there = {"name": "second", "namespace": second.namespace}
        uninstall(release)
        said = releases.refusal(release, "install", "second", str(CHART), "--namespace", second.namespace)
        assert f"belongs to the Helm release qwen-operator in the namespace {NAMESPACE}. Nothing was changed." in said
        assert "--take-ownership --set adopt=true" in said
        assert second.find("deployments") == []

        put(release, "install", CHART, *releases.advice(said), **there)
        check_that_it_works(kubectl)
        assert f"{kubectl.namespace}/{SERVICE} answers: " in releases.helm_test(release, **there)
        # From now on the CRD is its own: no further upgrade has to adopt anything.
        put(release, "upgrade", CHART, **there)
        uninstall(release, **there)
    # The first name again, for which the CRD is another release's now.
    said = releases.refusal(release, "install", "qwen-operator", str(CHART), "--namespace", NAMESPACE)
    assert "belongs to the Helm release second" in said
    put(release, "install", CHART, *releases.advice(said))
    check_that_it_works(kubectl)


def test_a_release_takes_over_what_kubectl_applied(
    release: Client, kubectl: Kubectl, cluster: Settings, operator: Kubectl
) -> None:
    apply_manifest(release, operator)
    with untouched(kubectl, cluster):
        check_that_it_works(kubectl)
        said = releases.refusal(release, "install", "qwen-operator", str(CHART), "--namespace", NAMESPACE)
        assert "belongs to no Helm release; kubectl or another tool applied it. Nothing was changed." in said
        put(release, "install", CHART, *releases.advice(said))
        check_that_it_works(kubectl)
        assert f"{kubectl.namespace}/{SERVICE} answers: " in releases.helm_test(release)
        put(release, "upgrade", CHART)


def apply_manifest(release: Client, operator: Kubectl) -> None:
    """`kubectl apply` of manifests/install.yaml with this checkout's images, and waits for it."""
    text = generate.INSTALL.read_text(encoding="utf-8")
    for name, image in (("qwen-operator:1.0.0", images.OPERATOR), ("qwen-server:1.0.0-cpu", images.SERVER)):
        assert name in text
        text = text.replace(name, release.cluster.reference(image))
    operator.run("apply", "--server-side", "-f", "-", stdin=text)
    operator.run("rollout", "status", "deployment/qwen-operator", "--timeout=110s")
