"""Optional children on a real API server: they come, change and go with their fields."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.admin_api import QS, AdminApi, qwen_service
from tests.integration.control_plane import ControlPlane, wait_until
from tests.integration.operator_thread import OperatorThread

pytestmark = pytest.mark.cluster

KEDA = ("keda.sh/v1alpha1", "scaledobjects", "news")
HPA = ("autoscaling/v2", "horizontalpodautoscalers", "news")
INGRESS = ("networking.k8s.io/v1", "ingresses", "news")
ROUTE = ("gateway.networking.k8s.io/v1", "httproutes", "news")
SCALING = {"maxReplicas": 4, "scaler": "KEDA", "prometheusAddress": "http://prometheus.monitoring.svc:9090"}


@contextmanager
def api_of(plane: ControlPlane, child: tuple[str, str, str], kind: str) -> Iterator[None]:
    """The API of an optional child, without the program behind it."""
    (group, _, version), plural = child[0].partition("/"), child[1]
    free: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": free, "status": free}}},
    }
    # Groups of k8s.io are protected: the annotation says why this one may exist.
    metadata = {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}}
    names = {"kind": kind, "plural": plural}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served]},
    }
    AdminApi(plane, "default").create(definition)
    plane.wait_for_definition(f"{plural}.{group}")
    yield
    plane.request("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}")


@pytest.fixture(scope="module")
def keda(plane: ControlPlane) -> Iterator[None]:
    """The API of KEDA, without KEDA."""
    with api_of(plane, KEDA, "ScaledObject"):
        yield


@pytest.fixture(scope="module")
def gateway_api(plane: ControlPlane) -> Iterator[None]:
    """The API of HTTPRoutes, without a Gateway."""
    with api_of(plane, ROUTE, "HTTPRoute"):
        yield


def discover(operator: OperatorThread) -> None:
    """Lets the operator look now at which APIs there are, instead of once a minute."""
    assert operator._loop is not None
    assert operator.controller is not None
    asyncio.run_coroutine_threadsafe(operator.controller.cluster.discover(), operator._loop).result(30)


def first(operator: OperatorThread, api: AdminApi, child: tuple[str, str, str]) -> Any:
    """Waits for a child whose API the operator may not have noticed yet."""

    def made() -> Any:
        found = api.get(*child)
        if found is None:
            discover(operator)
        return found

    return wait_until(f"one of the {child[1]}", made)


@pytest.mark.usefixtures("keda")
def test_one_autoscaler_follows_the_other(operator: OperatorThread, api: AdminApi) -> None:
    api.create(qwen_service(autoscaling=SCALING))
    found = first(operator, api, KEDA)
    assert found["spec"]["scaleTargetRef"] == {"apiVersion": QS, "kind": "QwenService", "name": "news"}
    assert api.get(*HPA) is None
    api.patch(QS, "qwenservices", "news", {"spec": {"autoscaling": {"scaler": "HPA", "prometheusAddress": None}}})
    wait_until("the other autoscaler", lambda: api.get(*HPA) and not api.get(*KEDA))
    api.patch(QS, "qwenservices", "news", {"spec": {"autoscaling": SCALING}})
    wait_until("the first autoscaler", lambda: api.get(*KEDA) and not api.get(*HPA))
    api.delete(*KEDA)
    wait_until("it is back", lambda: api.get(*KEDA))
    api.patch(QS, "qwenservices", "news", {"spec": {"autoscaling": None}})
    wait_until("no autoscaler", lambda: not api.get(*KEDA))


@pytest.mark.usefixtures("gateway_api")
def test_a_route_follows_the_spec(operator: OperatorThread, api: AdminApi) -> None:
    parents = [{"name": "gateway", "namespace": "infra", "sectionName": "https"}]
    service = api.create(qwen_service(route={"hostnames": ["news.example.com"], "parentRefs": parents}))
    found = first(operator, api, ROUTE)
    assert found["spec"] == {
        "hostnames": ["news.example.com"],
        "parentRefs": parents,
        "rules": [{"backendRefs": [{"name": "news", "port": 8000}]}],
    }
    assert [owner["uid"] for owner in found["metadata"]["ownerReferences"]] == [service["metadata"]["uid"]]
    api.patch(QS, "qwenservices", "news", {"spec": {"service": {"port": 9000}}})

    def is_repaired() -> bool:
        spec = (api.get(*ROUTE) or {}).get("spec", {})
        rules = [{"backendRefs": [{"name": "news", "port": 9000}]}]
        return (spec.get("hostnames"), spec.get("rules")) == (["news.example.com"], rules)

    wait_until("the port follows", is_repaired)
    api.patch(*ROUTE, {"spec": {"hostnames": ["intruder.example.com"]}})
    wait_until("the drift is repaired", is_repaired)
    api.delete(*ROUTE)
    wait_until("it is back", is_repaired)
    api.patch(QS, "qwenservices", "news", {"spec": {"route": None}})
    wait_until("no route", lambda: api.get(*ROUTE) is None)


def test_an_ingress_follows_the_spec_and_says_that_nobody_serves_it(operator: OperatorThread, api: AdminApi) -> None:
    assert operator.health.ready
    api.create(qwen_service(ingress={"hosts": ["news.example.com"], "tlsSecretName": "news-tls"}))
    found = wait_until("the Ingress", lambda: api.get(*INGRESS))
    assert found["spec"]["tls"] == [{"hosts": ["news.example.com"], "secretName": "news-tls"}]
    wait_until("a warning", lambda: api.condition("HasWarnings").get("reason") == "IngressClassMissing")
    changed = {"className": "nginx", "hosts": ["other.example.com"], "tlsSecretName": None}
    api.patch(QS, "qwenservices", "news", {"spec": {"ingress": changed}})

    def is_changed() -> bool:
        spec = (api.get(*INGRESS) or {}).get("spec", {})
        return (spec.get("ingressClassName"), spec.get("tls")) == ("nginx", None)

    wait_until("the Ingress is changed", is_changed)
    api.patch("networking.k8s.io/v1", "ingresses", "news", {"spec": {"ingressClassName": "intruder"}})
    wait_until("the drift is repaired", is_changed)
    api.patch(QS, "qwenservices", "news", {"spec": {"ingress": None}})
    wait_until("the Ingress is gone", lambda: api.get(*INGRESS) is None)


def test_claims_and_trusted_authorities_reach_the_pods(operator: OperatorThread, api: AdminApi) -> None:
    claims = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu", "request": "gpu"}]
    engine = {"device": "cuda", "trustedCA": {"configMapRef": {"name": "company-ca"}}}
    api.create(qwen_service(engine=engine, gpu={"resourceClaims": claims}))
    deployment = wait_until("the Deployment", api.deployment)
    pod = deployment["spec"]["template"]["spec"]
    assert pod["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    assert pod["containers"][0]["resources"]["claims"] == [{"name": "gpu", "request": "gpu"}]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "trusted-ca"]
    assert volume["configMap"]["items"] == [{"key": "ca-bundle.crt", "path": "ca-bundle.crt"}]
    operator.reconcile()
    wait_until("a status", lambda: api.condition("Ready"))
    again = api.deployment()
    assert again is not None
    assert again["metadata"]["generation"] == deployment["metadata"]["generation"]


def test_two_families_in_a_cluster_of_one_are_refused_and_the_default_is_not(
    operator: OperatorThread, api: AdminApi
) -> None:
    assert operator.health.ready
    api.create(qwen_service(service={"ipFamilyPolicy": "RequireDualStack"}))
    wait_until("the reason", lambda: api.condition("Ready").get("reason") == "ApplyFailed")
    assert "ipFamilyPolicy" in api.condition("Ready")["message"]
    api.patch(QS, "qwenservices", "news", {"spec": {"service": None}})
    found = wait_until("the Service", lambda: api.get("v1", "services", "news"))
    assert (found["spec"]["ipFamilyPolicy"], found["spec"]["ipFamilies"]) == ("PreferDualStack", ["IPv4"])
    wait_until("no error", lambda: api.condition("Degraded").get("status") == "False")


def test_image_volumes_that_the_cluster_lacks_are_named_and_no_pod_is_made_without_them(
    operator: OperatorThread, api: AdminApi
) -> None:
    assert operator.health.ready
    image = {"source": {"builtin": None, "image": {"reference": "registry.example/news:1"}}}
    api.create(qwen_service(model={"source": {"image": image["source"]["image"]}}))
    wait_until("the reason", lambda: api.condition("Ready").get("reason") == "ImageVolumeUnsupported")
    assert "feature gate ImageVolume" in api.condition("Ready")["message"]
    assert api.deployment() is None
    builtin = {"source": {"image": None, "builtin": "news-classifier"}}
    api.patch(QS, "qwenservices", "news", {"spec": {"model": builtin}})
    before = wait_until("the Deployment", api.deployment)
    api.patch(QS, "qwenservices", "news", {"spec": {"model": image, "replicas": 2}})
    wait_until("the reason", lambda: api.condition("Progressing").get("reason") == "ImageVolumeUnsupported")

    def scaled() -> Any:
        found = api.deployment()
        return found if found is not None and found["spec"]["replicas"] == 2 else None

    after = wait_until("the replicas", scaled)
    assert after["spec"]["template"] == before["spec"]["template"]
    assert not api.events("DriftRepaired")
