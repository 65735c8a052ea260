"""The children other than the Deployment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwen_operator.api import QwenService
from qwen_operator.planning.builders.deployment import spec_hash
from qwen_operator.planning.monitoring import RUNBOOKS, MonitoringDefaults
from tests.unit.qwen_operator.objects import ROOT, UID, Object, child, gpu_service, load, planned, service

EVERYTHING: Object = {
    "autoscaling": {"maxReplicas": 8},
    "networkPolicy": {"enabled": True},
    "route": {"hostnames": ["news.example.com"], "parentRefs": [{"name": "gateway"}]},
    "cache": {"size": "10Gi", "retain": False},
}


def kinds(**changes: Any) -> set[str]:
    return {obj["kind"] for obj in planned(service(**EVERYTHING), **changes).children}


def alerts(**spec: Any) -> dict[str, Object]:
    text = child(service(**spec), "ConfigMap")["data"]["alerts.json"]
    return {entry["name"]: entry for entry in json.loads(text)["alerts"]}


def test_every_child_is_owned_labelled_and_in_the_namespace() -> None:
    children = planned(service(**EVERYTHING), has_service_monitor=True, has_http_route=True).children
    assert len(children) == 9
    for obj in children:
        metadata = obj["metadata"]
        (owner,) = metadata["ownerReferences"]
        assert owner["uid"] == UID
        assert owner["controller"] is owner["blockOwnerDeletion"] is True
        assert metadata["namespace"] == "default"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "qwen-operator"


def test_alerts_reach_the_server_with_their_overrides() -> None:
    found = alerts(alerts=[{"name": "HighTTFT", "threshold": 2, "for": "2m", "severity": "critical"}])
    assert found["HighTTFT"] == {
        "name": "HighTTFT",
        "threshold": 2,
        "for": 120,
        "severity": "critical",
        "enabled": True,
    }
    assert found["EngineUnresponsive"]["threshold"] == 60


def test_alert_without_threshold_reaches_the_server_disabled() -> None:
    assert alerts()["HighLatency"]["enabled"] is False


def test_threshold_does_not_touch_the_pods() -> None:
    one = child(service(), "Deployment")
    assert child(service(alerts=[{"name": "HighTTFT", "threshold": 2}]), "Deployment") == one


def test_service_listens_where_the_spec_says() -> None:
    exposure = {"type": "NodePort", "port": 80, "annotations": {"a": "b"}}
    found = child(service(service=exposure), "Service")
    assert found["spec"]["type"] == "NodePort"
    assert found["spec"]["ports"][0]["port"] == 80
    assert found["spec"]["ports"][0]["targetPort"] == "http"
    assert found["metadata"]["annotations"] == {"a": "b"}


@pytest.mark.parametrize("policy", ["SingleStack", "PreferDualStack", "RequireDualStack"])
def test_the_service_has_the_ip_families_of_the_cluster_unless_the_spec_says_otherwise(policy: str) -> None:
    assert child(service(), "Service")["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    found = child(service(service={"ipFamilyPolicy": policy}), "Service")["spec"]
    assert found["ipFamilyPolicy"] == policy
    assert "ipFamilies" not in found  # the API server fills them in, and some changes of them are refused


def test_service_selects_exactly_the_deployments_pods() -> None:
    pods = child(service(), "Deployment")["spec"]
    assert child(service(), "Service")["spec"]["selector"] == pods["selector"]["matchLabels"]


def test_service_monitor_needs_its_api() -> None:
    assert "ServiceMonitor" not in kinds()
    assert "ServiceMonitor" in kinds(has_service_monitor=True)


def test_service_monitor_selects_the_service_and_takes_labels() -> None:
    subject = service(monitoring={"labels": {"release": "prometheus"}, "interval": "5s"})
    found = child(subject, "ServiceMonitor", has_service_monitor=True)
    service_labels = child(subject, "Service")["metadata"]["labels"]
    assert found["spec"]["selector"]["matchLabels"].items() <= service_labels.items()
    assert found["metadata"]["labels"]["release"] == "prometheus"
    assert found["spec"]["endpoints"][0]["scrapeTimeout"] == "5s"


@pytest.mark.parametrize("name", ["news", "qwen2.5-7b"])
def test_each_series_of_a_pod_names_the_qwenservice(name: str) -> None:
    found = child(service(name), "ServiceMonitor", has_service_monitor=True)
    relabeling = {"action": "replace", "targetLabel": "qwenservice", "replacement": name}
    assert found["spec"]["endpoints"][0]["relabelings"] == [relabeling]


def test_claim_is_kept_by_default() -> None:
    kept = child(service(cache={"size": "10Gi"}), "PersistentVolumeClaim")
    assert "ownerReferences" not in kept["metadata"]
    assert kept["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}


def test_existing_claim_is_used_instead() -> None:
    subject = service(cache={"existingClaim": "mine"})
    assert "PersistentVolumeClaim" not in {obj["kind"] for obj in planned(subject).children}
    volumes = child(subject, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


def test_operator_passes_the_network_policy() -> None:
    (rule,) = child(service(networkPolicy={"enabled": True}), "NetworkPolicy")["spec"]["ingress"]
    assert {"podSelector": {}} in rule["from"]
    namespaces = [peer["namespaceSelector"]["matchLabels"] for peer in rule["from"] if "namespaceSelector" in peer]
    assert namespaces == [{"kubernetes.io/metadata.name": "qwen-system"}]
    (operator,) = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "namespaceSelector" in peer]
    assert operator == {"app.kubernetes.io/part-of": "qwen-vllm", "app.kubernetes.io/component": "operator"}


def test_given_peers_replace_the_namespace() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    (rule,) = child(service(networkPolicy={"enabled": True, "from": [peer]}), "NetworkPolicy")["spec"]["ingress"]
    assert rule["from"][0] == peer
    assert {"podSelector": {}} not in rule["from"]


def test_autoscaler_scales_the_qwenservice() -> None:
    found = child(service(autoscaling={"maxReplicas": 8}), "HorizontalPodAutoscaler")["spec"]
    assert found["scaleTargetRef"]["kind"] == "QwenService"
    assert (found["minReplicas"], found["maxReplicas"]) == (1, 8)


def test_ingress_points_at_the_service() -> None:
    found = child(service(ingress={}), "Ingress")["spec"]
    (path,) = found["rules"][0]["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/", "Prefix")
    assert path["backend"] == {"service": {"name": "news", "port": {"name": "http"}}}
    assert found.keys() == {"rules"}


def test_ingress_has_class_hosts_and_certificate() -> None:
    given = {
        "className": "nginx",
        "hosts": ["a.example.com", "b.example.com"],
        "tlsSecretName": "news-tls",
        "annotations": {"example.com/timeout": "600"},
    }
    found = child(service(ingress=given), "Ingress")
    assert found["metadata"]["annotations"] == given["annotations"]
    assert found["spec"]["ingressClassName"] == "nginx"
    assert [rule["host"] for rule in found["spec"]["rules"]] == given["hosts"]
    assert found["spec"]["tls"] == [{"secretName": "news-tls", "hosts": given["hosts"]}]
    assert child(service(ingress={"tlsSecretName": "t"}), "Ingress")["spec"]["tls"] == [{"secretName": "t"}]


def scaled_object(**scaling: Any) -> Object:
    given = {"maxReplicas": 8, "scaler": "KEDA", "prometheusAddress": "http://prometheus:9090", **scaling}
    spec: Object = child(service(autoscaling=given), "ScaledObject", has_scaled_object=True)["spec"]
    return spec


def test_keda_scales_the_qwenservice_by_its_queue() -> None:
    found = scaled_object(target={"waitingRequestsPerReplica": 7}, scaleDownStabilization="1m")
    assert found["scaleTargetRef"] == {"apiVersion": "qwen-vllm.io/v1alpha1", "kind": "QwenService", "name": "news"}
    assert (found["minReplicaCount"], found["maxReplicaCount"], found["cooldownPeriod"]) == (1, 8, 60)
    (trigger,) = found["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"] == {
        "serverAddress": "http://prometheus:9090",
        "query": 'sum(qwen_requests_waiting{namespace="default",service="news"})',
        "threshold": "7",
    }


def test_keda_starts_the_first_replica_by_the_query_of_the_spec_and_keeps_one_that_works() -> None:
    found = scaled_object(minReplicas=0, activationQuery="sum(rate(gateway_requests_total[2m]))")
    assert found["minReplicaCount"] == 0
    queries = [trigger["metadata"]["query"] for trigger in found["triggers"]]
    assert queries[1] == 'sum(qwen_requests_running{namespace="default",service="news"})'
    assert queries[2] == "sum(rate(gateway_requests_total[2m]))"
    assert {int(trigger["metadata"]["threshold"]) for trigger in found["triggers"][1:]} == {1_000_000}


def test_route_points_at_the_service() -> None:
    found = child(service(**EVERYTHING), "HTTPRoute", has_http_route=True)["spec"]
    assert found["rules"][0]["backendRefs"] == [{"name": "news", "port": 8000}]
    assert found["hostnames"] == ["news.example.com"]


@pytest.mark.parametrize(
    ("rollout", "numbers"),
    [
        ({}, (0, 1)),
        ({"maxSurge": 1}, (1, 0)),
        ({"maxUnavailable": 0}, (1, 0)),
        ({"maxUnavailable": "50%"}, (0, "50%")),
        ({"maxSurge": 2, "maxUnavailable": 1}, (2, 1)),
    ],
)
def test_gpu_rollout_has_no_spare_gpu(rollout: Object, numbers: tuple[Any, Any]) -> None:
    update = child(gpu_service(rollout=rollout), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert (update["maxSurge"], update["maxUnavailable"]) == numbers


def test_cpu_rollout_starts_the_new_pod_first() -> None:
    update = child(service(), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert (update["maxSurge"], update["maxUnavailable"]) == (1, 0)


def test_rollout_deadline_covers_start_proof_and_drain() -> None:
    rollout = {"startupTimeout": "10m", "minReadySeconds": 30}
    spec = child(service(rollout=rollout, drain={"timeout": "90s"}), "Deployment")["spec"]
    assert spec["progressDeadlineSeconds"] == 720
    assert spec["minReadySeconds"] == 30


def rules_of(**spec: Any) -> dict[str, Object]:
    found = child(service(**spec), "PrometheusRule", has_prometheus_rule=True, has_service_monitor=True)
    return {rule["alert"]: rule for group in found["spec"]["groups"] for rule in group["rules"] if "alert" in rule}


def test_prometheus_rule_needs_its_api_and_can_be_switched_off() -> None:
    assert "PrometheusRule" not in kinds()
    assert "PrometheusRule" in kinds(has_prometheus_rule=True)
    off = service(monitoring={"prometheusRule": "Disabled"})
    assert "PrometheusRule" not in {obj["kind"] for obj in planned(off, has_prometheus_rule=True).children}


def test_every_active_alert_has_a_rule_with_its_severity() -> None:
    found = rules_of(alerts=[{"name": "HighTTFT", "severity": "critical"}, {"name": "GPUMemoryHigh", "enabled": False}])
    assert found["QwenHighTTFT"]["labels"]["severity"] == "critical"
    assert 'service="news",name="HighTTFT"' in found["QwenHighTTFT"]["expr"]
    assert "QwenGPUMemoryHigh" not in found
    assert "QwenHighLatency" not in found


def test_a_death_is_what_the_operator_saw_because_a_pod_that_cannot_be_scraped_may_be_well() -> None:
    expression = rules_of()["QwenEngineDead"]["expr"]
    assert 'qwen_operator_engine_deaths_total{namespace="default",service="news"}' in expression
    assert "up{" not in expression


def test_every_alert_names_its_runbook_its_severity_and_its_value() -> None:
    found = rules_of(slo={"availability": "99.5"})
    assert {name[:4] for name in found} == {"Qwen"}
    for name, rule in found.items():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["labels"]["qwenservice"] == "news"
        assert rule["annotations"]["summary"].endswith(".")
        base, _, page = rule["annotations"]["runbook_url"].rpartition("/")
        assert base == RUNBOOKS
        assert (ROOT / "docs" / "runbooks" / page).is_file()
        assert "by (namespace, service" in rule["expr"] or 'namespace="default"' in rule["expr"]
        if name != "QwenServiceNotScraped":
            assert "$value" in rule["annotations"]["description"]


def test_only_a_service_with_a_monitor_can_have_no_target() -> None:
    off = service(monitoring={"serviceMonitor": "Disabled"})
    alone = child(service(), "PrometheusRule", has_prometheus_rule=True)
    disabled = child(off, "PrometheusRule", has_prometheus_rule=True, has_service_monitor=True)
    for built in (alone, disabled):
        rules = [rule for group in built["spec"]["groups"] for rule in group["rules"]]
        assert "QwenServiceNotScraped" not in {rule.get("alert") for rule in rules}
    assert "QwenServiceNotScraped" in rules_of()


def test_a_setting_of_the_operator_labels_the_monitoring_of_every_service() -> None:
    defaults = MonitoringDefaults({"release": "prometheus", "team": "a"}, "https://r.example.com/")
    cluster = {"has_service_monitor": True, "has_prometheus_rule": True, "monitoring": defaults}
    subject = service(metadata={"labels": {"team": "b"}}, monitoring={"labels": {"release": "own"}})
    for kind in ("ServiceMonitor", "PrometheusRule"):
        labels = child(service(), kind, **cluster)["metadata"]["labels"]
        assert (labels["release"], labels["team"]) == ("prometheus", "a")
        labels = child(subject, kind, **cluster)["metadata"]["labels"]
        assert (labels["release"], labels["team"]) == ("own", "b")
    rule = child(service(), "PrometheusRule", **cluster)["spec"]["groups"][0]["rules"][0]
    assert rule["annotations"]["runbook_url"] == "https://r.example.com/EngineUnresponsive.md"
    assert "release" not in child(service(), "Service", **cluster)["metadata"]["labels"]


def everything() -> tuple[QwenService, dict[str, Any]]:
    """A service with every child, and a cluster that serves all of them."""
    apis = ("service_monitor", "prometheus_rule", "http_route", "scaled_object")
    cluster = {f"has_{api}": True for api in apis}
    return QwenService.parse({**load("manifests/samples/full.yaml"), "metadata": {"name": "news"}}), cluster


def test_every_child_and_pod_has_the_labels_and_annotations_of_the_spec() -> None:
    subject, cluster = everything()
    children = planned(subject, **cluster).children
    assert len(children) >= 11
    (deployment,) = [obj for obj in children if obj["kind"] == "Deployment"]
    for obj in (*children, deployment["spec"]["template"]):
        assert obj["metadata"]["labels"]["cost-center"] == "newsroom"
        assert obj["metadata"]["annotations"]["example.com/owner"] == "news-team"


def test_no_child_is_in_the_prune_list_of_argo_cd() -> None:
    subject, cluster = everything()
    for obj in planned(subject, **cluster).children:
        assert "app.kubernetes.io/instance" not in obj["metadata"]["labels"]


def test_more_special_labels_win() -> None:
    subject = service(
        metadata={"labels": {"release": "a"}, "annotations": {"n": "a"}},
        monitoring={"labels": {"release": "b"}},
        service={"annotations": {"n": "b"}},
        podTemplate={"metadata": {"labels": {"release": "c"}}},
    )
    assert child(subject, "ServiceMonitor", has_service_monitor=True)["metadata"]["labels"]["release"] == "b"
    assert child(subject, "Service")["metadata"]["annotations"]["n"] == "b"
    assert child(subject, "ConfigMap")["metadata"]["labels"]["release"] == "a"
    assert child(subject, "Deployment")["spec"]["template"]["metadata"]["labels"]["release"] == "c"


def test_a_changed_label_is_no_operator_upgrade() -> None:
    plain, labelled = service(), service(metadata={"labels": {"a": "b"}})
    assert spec_hash(plain.spec) != spec_hash(labelled.spec)
