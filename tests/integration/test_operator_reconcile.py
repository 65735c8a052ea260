"""A QwenService becomes its children, and stays what its spec says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter

from qwen_operator.api.names import child_name
from qwen_operator.process.operator_metrics import WRITES
from tests.integration.admin_api import QS, STRATEGIC, AdminApi, qwen_service
from tests.integration.control_plane import wait_until
from tests.integration.fake_pods import FakePodServers
from tests.integration.operator_thread import IMAGES, OperatorThread

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

CHILDREN = [
    ("apps/v1", "deployments", "news"),
    ("v1", "services", "news"),
    ("v1", "configmaps", "news-alerts"),
    ("policy/v1", "poddisruptionbudgets", "news"),
]
NAMES = ("a.b.c", "1news", "a" * 63, "long." + "n" * 195)


def exist(api: AdminApi, children: list[tuple[str, str, str]]) -> bool:
    return all(api.get(*child) is not None for child in children)


def container(api: AdminApi) -> dict[str, Any]:
    deployment = api.deployment()
    assert deployment is not None
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


def test_children_are_made_and_owned(api: AdminApi) -> None:
    service = api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    for child in CHILDREN:
        found = api.get(*child)
        assert found is not None
        owner = found["metadata"]["ownerReferences"][0]
        assert owner["uid"] == service["metadata"]["uid"]
        assert owner["controller"] is True
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "qwen-operator"
    assert container(api)["image"] == "server:cpu"


def test_the_object_itself_gets_a_status_and_nothing_else(api: AdminApi) -> None:
    created = api.create(qwen_service(replicas=1))
    wait_until("a status", lambda: api.condition("Ready"))
    service = api.service()
    assert "finalizers" not in service["metadata"]
    assert "annotations" not in service["metadata"]
    assert service["spec"] == created["spec"]
    status = service["status"]
    assert status["url"] == f"http://news.{api.namespace}.svc:8000"
    assert status["model"] == "qwen-news-classifier"
    assert status["observedGeneration"] == 1
    assert api.condition("Ready")["status"] == "False"
    assert api.condition("Ready")["message"]


@pytest.mark.parametrize("child", CHILDREN, ids=lambda child: child[1])
def test_a_deleted_child_comes_back(api: AdminApi, child: tuple[str, str, str]) -> None:
    api.create(qwen_service())
    first = wait_until("the child", lambda: exist(api, CHILDREN) and api.get(*child))
    api.delete(*child)

    def is_back() -> bool:
        found = api.get(*child)
        return found is not None and found["metadata"]["uid"] != first["metadata"]["uid"]

    wait_until("the child is back", is_back)


def test_drift_is_repaired(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.patch("v1", "services", "news", {"spec": {"selector": {"qwen-vllm.io/service": "other"}}})
    api.patch("apps/v1", "deployments", "news", {"spec": {"replicas": 5}})
    api.patch("v1", "configmaps", "news-alerts", {"data": {"alerts.json": "{}"}})

    def is_repaired() -> bool:
        service, deployment = api.get("v1", "services", "news"), api.deployment()
        config = api.get("v1", "configmaps", "news-alerts")
        assert service is not None
        assert deployment is not None
        assert config is not None
        selector = service["spec"]["selector"]["qwen-vllm.io/service"]
        return (selector, deployment["spec"]["replicas"]) == ("news", 1) and config["data"]["alerts.json"] != "{}"

    wait_until("the drift is repaired", is_repaired)


def test_what_others_add_stays_and_so_does_a_restart_by_hand(api: AdminApi) -> None:
    """As docs/operations.md says of `kubectl set env` and `kubectl rollout restart`."""
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    variable = {"name": "server", "env": [{"name": "EXAMPLE", "value": "1"}]}
    restarted = {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}
    template = {"metadata": restarted, "spec": {"containers": [variable]}}
    changes = {"replicas": 5, "template": template}
    api.patch("apps/v1", "deployments", "news", {"spec": changes}, kind=STRATEGIC)

    def is_repaired() -> bool:
        deployment = api.deployment()
        assert deployment is not None
        return bool(deployment["spec"]["replicas"] == 1)

    wait_until("the drift is repaired", is_repaired)
    deployment = api.deployment()
    assert deployment is not None
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"].items() >= restarted["annotations"].items()
    assert {"name": "EXAMPLE", "value": "1"} in template["spec"]["containers"][0]["env"]


def test_a_lost_label_is_repaired(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    label = "app.kubernetes.io/managed-by"
    api.patch("v1", "services", "news", {"metadata": {"labels": {label: None}}})

    def is_back() -> bool:
        service = api.get("v1", "services", "news")
        return service is not None and service["metadata"]["labels"].get(label) == "qwen-operator"

    wait_until("the label is back", is_back)


def test_a_field_that_is_no_longer_asked_for_is_removed(api: AdminApi) -> None:
    template = {"metadata": {"labels": {"team": "news"}}, "spec": {"hostNetwork": True}}
    api.create(qwen_service(podTemplate=template, engine={"device": "cpu", "env": [{"name": "A", "value": "1"}]}))

    def pod_spec() -> dict[str, Any]:
        deployment = api.deployment()
        return {} if deployment is None else deployment["spec"]["template"]

    wait_until("the template", lambda: pod_spec().get("spec", {}).get("hostNetwork"))
    assert {"name": "A", "value": "1"} in container(api)["env"]
    api.patch(QS, "qwenservices", "news", {"spec": {"podTemplate": None, "engine": {"env": None}}})
    wait_until("the field is gone", lambda: "hostNetwork" not in pod_spec()["spec"])
    assert "team" not in pod_spec()["metadata"]["labels"]
    assert not any(item["name"] == "A" for item in container(api)["env"])


def test_a_child_that_is_no_longer_asked_for_is_removed(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.patch(QS, "qwenservices", "news", {"spec": {"disruption": {"podDisruptionBudget": "Disabled"}}})
    wait_until("the budget is gone", lambda: api.get("policy/v1", "poddisruptionbudgets", "news") is None)
    assert exist(api, CHILDREN[:3])


def test_a_budget_of_the_user_replaces_ours(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    theirs = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "theirs"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"qwen-vllm.io/service": "news"}}},
    }
    api.create(theirs)
    wait_until("ours is gone", lambda: api.get("policy/v1", "poddisruptionbudgets", "news") is None)
    api.delete("policy/v1", "poddisruptionbudgets", "theirs")
    wait_until("ours is back", lambda: api.get("policy/v1", "poddisruptionbudgets", "news") is not None)


def test_deletion_cleans_up(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.started(1)
    api.delete(QS, "qwenservices", "news")

    def is_clean() -> bool:
        return not any(api.get(*child) for child in CHILDREN) and not api.pods()

    wait_until("everything is gone", is_clean, seconds=60)


def test_services_of_every_name_have_all_children_and_serve(api: AdminApi, servers: FakePodServers) -> None:
    for name in NAMES:
        api.create(qwen_service(name, cache={"size": "1Gi", "retain": False}, networkPolicy={"enabled": True}))
    for number, name in enumerate(NAMES):
        check_name(api, servers, name, f"10.0.0.{number + 1}")


def check_name(api: AdminApi, servers: FakePodServers, name: str, ip: str) -> None:
    """Brings the pod of a service into rotation, and looks at what belongs to it."""
    child = child_name(name)

    def pods() -> list[str]:
        found = [pod["metadata"] for pod in api.pods()]
        return [pod["name"] for pod in found if pod["labels"]["qwen-vllm.io/service"] == child]

    [pod] = wait_until(f"the pod of {name}", pods)
    servers.add(ip)
    api.run_pod(pod, ip)
    wait_until("the gate is open", lambda: api.gate(pod) == "True")
    api.run_pod(pod, ip)
    wait_until(f"{name} serves", lambda: api.condition("Ready", name).get("status") == "True")
    assert api.status(name)["url"] == f"http://{child}.{api.namespace}.svc:8000"
    named = [(version, plural, child) for version, plural, _ in CHILDREN if plural != "configmaps"]
    suffixes = {"configmaps": "alerts", "persistentvolumeclaims": "cache"}
    suffixed = [("v1", plural, child_name(name, suffix)) for plural, suffix in suffixes.items()]
    assert exist(api, [*named, *suffixed, ("networking.k8s.io/v1", "networkpolicies", child)])
    wait_until(f"an Event of {name}", lambda: name in [item["involvedObject"]["name"] for item in events(api)])


def events(api: AdminApi) -> list[dict[str, Any]]:
    return api.objects("v1", "events")


def test_the_scale_subresource_scales_the_deployment(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.patch(QS, "qwenservices", "news", {"spec": {"replicas": 3}}, "scale")
    wait_until("three replicas", lambda: (api.deployment() or {})["spec"]["replicas"] == 3)
    wait_until("three pods in status", lambda: api.status().get("replicas") == 3)
    scale = api.get(QS, "qwenservices", "news/scale")
    assert scale is not None
    assert scale["spec"]["replicas"] == 3
    assert "qwen-vllm.io/service=news" in scale["status"]["selector"]


def test_a_refused_pod_template_holds_back_nothing_else_and_says_why(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    bad = {"spec": {"terminationGracePeriodSeconds": -5, "containers": [{"name": "server", "image": "other"}]}}
    changes = {
        "podTemplate": bad,
        "service": {"port": 9000},
        "replicas": 3,
        "networkPolicy": {"enabled": True},
        "alerts": [{"name": "HighTTFT", "threshold": 7}],
    }
    api.patch(QS, "qwenservices", "news", {"spec": changes})
    wait_until("the reason", lambda: api.condition("Progressing").get("reason") == "InvalidPodTemplate")
    assert "terminationGracePeriodSeconds" in api.condition("Progressing")["message"]
    assert container(api)["image"] == "server:cpu"
    service = api.get("v1", "services", "news")
    assert service is not None
    assert service["spec"]["ports"][0]["port"] == 9000
    deployment = api.deployment()
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 3
    assert api.get("networking.k8s.io/v1", "networkpolicies", "news") is not None
    thresholds = api.get("v1", "configmaps", "news-alerts")
    assert thresholds is not None
    alerts = json.loads(thresholds["data"]["alerts.json"])["alerts"]
    assert [alert["threshold"] for alert in alerts if alert["name"] == "HighTTFT"] == [7]
    [event] = wait_until("an event tells of it", lambda: api.events("InvalidPodTemplate"))
    assert event["type"] == "Warning"
    api.patch(QS, "qwenservices", "news", {"spec": {"podTemplate": None}})
    wait_until(
        "the reason is gone",
        lambda: api.condition("Progressing").get("reason") != "InvalidPodTemplate",
        seconds=10,
    )


def answering(api: AdminApi, servers: FakePodServers) -> str:
    """The name of the first pod, which runs and whose gate is open."""
    servers.add("10.0.0.1")
    [pod] = api.started(1)
    api.run_pod(pod, "10.0.0.1")
    wait_until("the gate is open", lambda: api.gate(pod) == "True")
    api.run_pod(pod, "10.0.0.1")
    return pod


def test_a_service_of_someone_else_is_not_taken_and_the_status_does_not_speak_of_it(
    api: AdminApi, servers: FakePodServers
) -> None:
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "news"}, "spec": {"ports": [{"port": 1}]}}
    api.create(theirs)
    api.create(qwen_service())
    answering(api, servers)
    wait_until("the pod is seen", lambda: api.status().get("replicas") == 1)
    time.sleep(1.0)  # the time to judge the pod, which is ready
    ready = api.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "NameTaken")
    assert "Service news exists" in ready["message"]
    assert api.status()["readyReplicas"] == 0
    service = api.get("v1", "services", "news")
    assert service is not None
    assert service["spec"]["ports"][0]["port"] == 1
    api.delete("v1", "services", "news")
    wait_until("all children exist", lambda: exist(api, CHILDREN), seconds=30)
    wait_until("it is ready", lambda: api.condition("Ready")["status"] == "True")


def test_a_deployment_of_someone_else_is_named_and_not_changed(api: AdminApi) -> None:
    labels = {"matchLabels": {"app": "theirs"}}
    template = {"metadata": {"labels": {"app": "theirs"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "news"},
        "spec": {"replicas": 0, "selector": labels, "template": template},
    }
    before = api.create(theirs)
    api.create(qwen_service())
    wait_until("the reason", lambda: api.condition("Ready").get("reason") == "NameTaken")
    assert "Deployment news exists" in api.condition("Ready")["message"]
    after = api.deployment()
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert "ownerReferences" not in after["metadata"]


def test_children_without_an_owner_are_adopted_and_no_pod_changes(api: AdminApi) -> None:
    api.create(qwen_service(cache={"size": "1Gi", "retain": False}))
    children = [*CHILDREN, ("v1", "persistentvolumeclaims", "news-cache")]
    wait_until("all children", lambda: exist(api, children))
    [pod] = api.started(1)
    before, uid = api.deployment(), api.pod(pod)["metadata"]["uid"]
    assert before is not None
    # As `kubectl delete --cascade=orphan` leaves them.
    api.delete(QS, "qwenservices", "news?propagationPolicy=Orphan")
    wait_until("it is gone", lambda: api.get(QS, "qwenservices", "news") is None)
    wait_until("the children have no owner", lambda: not any(owners(api, child) for child in children))
    again = api.create(qwen_service(cache={"size": "1Gi", "retain": False}))

    def are_owned() -> bool:
        return all(owners(api, child) == [again["metadata"]["uid"]] for child in children)

    wait_until("the children are owned", are_owned)
    after = api.deployment()
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"]["template"] == before["spec"]["template"]
    assert [item["metadata"]["uid"] for item in api.pods()] == [uid]


def owners(api: AdminApi, child: tuple[str, str, str]) -> list[str]:
    found = api.get(*child)
    return [] if found is None else [owner["uid"] for owner in found["metadata"].get("ownerReferences", ())]


def test_thresholds_change_without_a_restart(api: AdminApi) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    [pod] = api.started(1)
    wait_until("the operator knows of the pod", lambda: api.status()["replicas"] == 1)
    before = api.deployment()
    assert before is not None
    api.patch(QS, "qwenservices", "news", {"spec": {"alerts": [{"name": "HighTTFT", "threshold": 2}]}})

    def hash_of_pod() -> str | None:
        annotations = api.pod(pod)["metadata"].get("annotations", {})
        found = annotations.get("qwen-vllm.io/config-hash")
        return None if found is None else str(found)

    wait_until("the pod is annotated", hash_of_pod)

    after = api.deployment()
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_restarted_operator_changes_nothing(
    api: AdminApi, servers: FakePodServers, operator: OperatorThread, operator_kubeconfig: Path
) -> None:
    api.create(qwen_service(cache={"size": "1Gi"}, networkPolicy={"enabled": True}, autoscaling={"maxReplicas": 2}))
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.started(1)
    wait_until_at_rest(api)
    operator.stop()
    before = written(WRITES)
    with OperatorThread(operator_kubeconfig, api.namespace, servers.url_of) as second:
        time.sleep(2.0)  # the time in which all children were applied again
        second.reconcile()
        time.sleep(0.5)
    assert written(WRITES) == before


def test_a_pending_update_neither_takes_over_drift_nor_starts_by_a_blip_of_readiness(
    api: AdminApi,
    servers: FakePodServers,
    operator: OperatorThread,
    operator_kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers.add("10.0.0.1")
    api.create(qwen_service(rollout={"minReadySeconds": 0}))
    [pod] = api.started(1)
    api.run_pod(pod, "10.0.0.1")
    wait_until("the gate is open", lambda: api.gate(pod) == "True")
    api.run_pod(pod, "10.0.0.1")
    wait_until("it is complete", lambda: api.condition("Progressing").get("reason") == "Complete")
    operator.stop()
    monkeypatch.setitem(IMAGES, "QWEN_OPERATOR_SERVER_IMAGE_CPU", "server:next")
    with OperatorThread(operator_kubeconfig, api.namespace, servers.url_of):
        wait_until("it is pending", lambda: api.condition("Progressing").get("reason") == "UpdatePending")
        wrong = {"spec": {"template": {"spec": {"containers": [{"name": "server", "image": "wrong"}]}}}}
        api.patch("apps/v1", "deployments", "news", wrong, kind=STRATEGIC)
        wait_until("the drift is repaired", lambda: container(api)["image"] == "server:cpu")
        api.run_pod(pod, "10.0.0.1", ready=False)
        wait_until("it is not ready", lambda: api.condition("Ready")["status"] == "False")
        time.sleep(1.0)  # the time in which the update was rolled out
        assert container(api)["image"] == "server:cpu"
        assert pod in [item["metadata"]["name"] for item in api.pods()]


def test_each_child_is_applied_once(api: AdminApi, operator: OperatorThread) -> None:
    before = written(WRITES)
    api.create(qwen_service(cache={"size": "1Gi"}, networkPolicy={"enabled": True}))
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.started(1)
    wait_until("the status has settled", lambda: api.status().get("replicas") == 1)
    for _ in range(3):
        operator.reconcile()
        time.sleep(0.7)
    kinds = ("ConfigMap", "Service", "PersistentVolumeClaim", "Deployment", "PodDisruptionBudget", "NetworkPolicy")
    after = written(WRITES)
    assert {kind: after.get(kind, 0) - before.get(kind, 0) for kind in kinds} == dict.fromkeys(kinds, 1)


def written(counter: Counter) -> dict[str, float]:
    """The writes of the operators in this process by kind, Events aside."""
    samples = [sample for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total")]
    return {sample.labels["kind"]: sample.value for sample in samples if sample.labels["kind"] != "Event"}


def test_an_operator_at_rest_writes_nothing(api: AdminApi, operator: OperatorThread) -> None:
    api.create(qwen_service())
    wait_until("all children", lambda: exist(api, CHILDREN))
    api.started(1)
    before = wait_until_at_rest(api)
    for _ in range(3):
        operator.reconcile()
        time.sleep(0.5)
    assert versions(api) == before


def versions(api: AdminApi) -> list[str]:
    """The resourceVersions of the service and of its children."""
    objects = [api.service(), *(api.get(*child) for child in CHILDREN)]
    return [obj["metadata"]["resourceVersion"] for obj in objects if obj is not None]


def wait_until_at_rest(api: AdminApi) -> list[str]:
    """Returns the versions when the operator and Kubernetes' controllers have written everything.

    The operator writes the replicas of a service that scales itself into its spec. The status of
    that generation is one more, which on a busy machine comes a second after the one before.
    """

    def settled() -> list[str]:
        found = versions(api)
        time.sleep(1.0)
        current = api.status().get("observedGeneration") == api.service()["metadata"]["generation"]
        return found if current and api.status().get("replicas") == 1 and versions(api) == found else []

    return list(wait_until("everything has been written", settled))


def test_quick_corrections_do_not_delete_the_only_pod_that_answers(api: AdminApi, servers: FakePodServers) -> None:
    """It has been ready for less than minReadySeconds, and Kubernetes would delete it first."""
    api.create(qwen_service())
    pod = answering(api, servers)
    wait_until("it is ready", lambda: api.condition("Ready").get("status") == "True")
    api.patch(QS, "qwenservices", "news", {"spec": {"engine": {"image": "registry.example/none:1"}}})
    wait_until("a pod with it", lambda: len(api.pods()) == 2)
    api.patch(QS, "qwenservices", "news", {"spec": {"engine": {"image": None}, "limits": {"maxQueueSize": 12}}})
    wait_until("it waits", lambda: api.events("UpdatePending"))
    assert "none:1" in str((api.deployment() or {})["spec"])
    assert "deletionTimestamp" not in api.pod(pod)["metadata"]
