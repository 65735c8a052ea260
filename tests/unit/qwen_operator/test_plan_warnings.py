"""What the author of a spec is warned of: what the cluster lacks, and what will not work."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_operator.planning.monitoring import MonitoringDefaults
from qwen_operator.planning.plan import Reference
from qwen_operator.planning.plan_warnings import scaling_trouble
from qwen_operator.planning.prometheuses import demands
from tests.unit.qwen_operator.objects import NOW, Object, child, gpu_service, planned, service

KEDA = {"maxReplicas": 2, "scaler": "KEDA", "prometheusAddress": "http://prometheus:9090"}


def reasons(subject: Any, **changes: Any) -> list[str]:
    return [warning.reason for warning in planned(subject, **changes).warnings]


def test_missing_keda_is_reported_and_no_other_autoscaler_made() -> None:
    subject = service(autoscaling=KEDA)
    assert reasons(subject) == ["AutoscalerUnavailable"]
    assert not {obj["kind"] for obj in planned(subject).children} & {"ScaledObject", "HorizontalPodAutoscaler"}
    assert reasons(subject, has_scaled_object=True) == []


def autoscaler(kind: str, status: str, reason: str, since: str | None = "2026-01-02T03:00:00Z") -> Object:
    condition = {"type": kind, "status": status, "reason": reason, "message": "no custom metrics API"}
    return {"status": {"conditions": [condition | ({"lastTransitionTime": since} if since else {})]}}


@pytest.mark.parametrize(
    ("live", "trouble"),
    [
        (None, ""),
        ({}, ""),
        (autoscaler("ScalingActive", "True", "ValidMetricFound"), ""),
        (autoscaler("ScalingActive", "False", "ScalingDisabled"), ""),
        (autoscaler("ScalingLimited", "False", "DesiredWithinRange"), ""),
        (autoscaler("ScalingActive", "False", "FailedGetPodsMetric", "2026-01-02T03:03:00Z"), ""),
        (autoscaler("ScalingActive", "False", "FailedGetPodsMetric"), "FailedGetPodsMetric: no custom metrics API"),
        (
            autoscaler("Ready", "False", "ScaledObjectCheckFailed", None),
            "ScaledObjectCheckFailed: no custom metrics API",
        ),
    ],
)
def test_an_autoscaler_that_does_not_work_is_reported_after_a_while(live: Object | None, trouble: str) -> None:
    found = scaling_trouble(live, NOW)
    assert found == trouble
    expected = ["AutoscalerNotActive"] if trouble else []
    assert reasons(service(autoscaling={"maxReplicas": 2}), scaling_trouble=found) == expected
    assert reasons(service(), scaling_trouble=found) == []


def test_one_autoscaler_replaces_the_other() -> None:
    keda = planned(service(autoscaling=KEDA), has_scaled_object=True)
    assert Reference("autoscaling/v2", "HorizontalPodAutoscaler", "news") in keda.removed
    hpa = planned(service(autoscaling={"maxReplicas": 2}), has_scaled_object=True)
    assert Reference("keda.sh/v1alpha1", "ScaledObject", "news") in hpa.removed
    assert "ScaledObject" not in {reference.kind for reference in planned(service()).removed}


def test_objectives_without_prometheus_rules_are_reported() -> None:
    subject = service(slo={"availability": "99"})
    assert reasons(subject) == ["MonitoringUnavailable"]
    assert reasons(subject, has_prometheus_rule=True) == []


@pytest.mark.parametrize(
    ("slo", "names"),
    [
        ({"availability": "66", "window": "90d"}, "for availability:"),
        (
            {"availability": "50", "ttft": {"threshold": "1s", "objective": "60"}, "window": "90d"},
            "for availability and ttft:",
        ),
        ({"availability": "67", "window": "90d"}, None),
        ({"availability": "1", "window": "30d"}, None),
    ],
)
def test_an_objective_that_makes_no_alert_is_reported(slo: Object, names: str | None) -> None:
    plan = planned(service(slo=slo), has_prometheus_rule=True)
    assert [warning.reason for warning in plan.warnings] == (["ObjectiveWithoutAlert"] if names else [])
    groups = child(service(slo=slo), "PrometheusRule", has_prometheus_rule=True)["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    alerts = [rule for rule in rules if "slo" in rule["labels"]]
    assert bool(alerts) is (names is None)
    if names is not None:
        assert names in plan.warnings[0].message
        assert "at most 66.7 %" in plan.warnings[0].message


def test_settings_of_the_cache_that_an_existing_claim_does_not_follow_are_reported() -> None:
    def found(**cache: Any) -> list[str]:
        warnings = planned(service(cache=cache), claims={"mine": {"spec": {"accessModes": ["ReadWriteMany"]}}}).warnings
        return [warning.message for warning in warnings if warning.reason == "CacheSettingsIgnored"]

    assert found(existingClaim="mine", download="Pods") == found(size="9Gi", retain=False) == []
    [message] = found(existingClaim="mine", size="9Gi", accessModes=["ReadWriteMany"], retain=False)
    assert message.startswith("cache.size and cache.accessModes and cache.retain have no effect")
    assert "the claim mine" in message


def test_settings_of_generated_text_are_reported_where_none_is_generated() -> None:
    given: Object = {"limits": {"maxTokens": 64, "defaultMaxTokens": 64, "maxStops": 32, "maxQueueSize": 3}}
    template = {"chatTemplate": {"configMapRef": {"name": "mine"}}}
    assert reasons(service(**given, model=template)) == reasons(service(model={"task": "embed"})) == []
    [found] = planned(service(**given, model=template | {"task": "embed"})).warnings
    assert found.reason == "TaskSettingsIgnored"
    names = "model.chatTemplate and limits.defaultMaxTokens and limits.maxTokens"
    assert found.message.startswith(f"{names} have no effect with model.task: embed")


def test_claims_without_their_api_are_reported() -> None:
    claims = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]}
    subject = gpu_service(gpu=claims, replicas=2)
    assert reasons(subject) == ["ResourceClaimsUnavailable"]
    assert reasons(subject, has_resource_claims=True) == []


def test_a_claim_that_several_pods_share_is_reported() -> None:
    claims = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "my-gpu"}]}
    cluster = {"has_resource_claims": True}
    assert reasons(gpu_service(gpu=claims, replicas=2), **cluster) == ["GPUsShared"]
    assert reasons(gpu_service(gpu=claims, autoscaling={"maxReplicas": 2}), **cluster) == [
        "RolloutMeansDowntime",
        "GPUsShared",
    ]
    assert reasons(gpu_service(gpu=claims, rollout={"maxSurge": 1}), **cluster) == ["GPUsShared"]
    assert reasons(gpu_service(gpu=claims), **cluster) == ["RolloutMeansDowntime"]


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("", None, []),
        ("", {"nginx": True}, []),
        ("", {"nginx": False}, ["IngressClassMissing"]),
        ("", {}, ["IngressClassMissing"]),
        ("nginx", {"nginx": False}, []),
        ("traefik", {"nginx": True}, ["IngressClassMissing"]),
    ],
)
def test_an_ingress_that_no_controller_serves_is_reported(
    name: str, classes: dict[str, bool] | None, expected: list[str]
) -> None:
    assert reasons(service(ingress={"className": name}), ingress_classes=classes) == expected


@pytest.mark.parametrize("front", [{"ingress": {}}, {"route": {"parentRefs": [{"name": "gateway"}]}}])
def test_a_policy_that_may_keep_the_gateway_out_is_reported(front: Object) -> None:
    cluster = {"has_http_route": True}
    unscraped = service(networkPolicy={"enabled": True}, monitoring={"networkPolicyFrom": []}, **front)
    assert reasons(unscraped, **cluster) == ["GatewayNotAdmitted"]
    peers = {"enabled": True, "from": [{"namespaceSelector": {}}]}
    assert reasons(service(networkPolicy=peers, **front), **cluster) == []
    assert reasons(service(**front), **cluster) == []


def prometheus(selector: Any, namespaces: Any = None, namespace: str = "default", name: str = "main") -> dict[str, Any]:
    selectors = {"serviceMonitorSelector": selector, "serviceMonitorNamespaceSelector": namespaces}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": selectors}


@pytest.mark.parametrize(
    ("selector", "namespaces", "namespace", "expected"),
    [
        ({}, None, "default", []),
        ({"matchLabels": {"release": "x"}}, None, "default", []),
        ({"matchLabels": {"release": "y"}}, None, "default", ["MonitoringNotSelected"]),
        (None, {}, "default", ["MonitoringNotSelected"]),
        ({}, None, "monitoring", ["MonitoringNotSelected"]),
        ({}, {}, "monitoring", []),
        ({}, {"matchLabels": {"kubernetes.io/metadata.name": "default"}}, "monitoring", []),
        ({}, {"matchLabels": {"kubernetes.io/metadata.name": "other"}}, "monitoring", ["MonitoringNotSelected"]),
        ({}, {"matchLabels": {"team": "unknown-here"}}, "monitoring", []),
        ({}, {"matchExpressions": [{"key": "team", "operator": "Exists"}]}, "monitoring", []),
    ],
)
def test_monitor_that_no_prometheus_selects_is_reported(
    selector: Any, namespaces: Any, namespace: str, expected: list[str]
) -> None:
    subject = service(monitoring={"labels": {"release": "x"}})
    found = [prometheus(selector, namespaces, namespace)]
    assert reasons(subject, has_service_monitor=True, prometheuses=found) == expected


@pytest.mark.parametrize(
    ("rule_selector", "rule_namespaces", "expected"),
    [
        ({}, {}, []),
        ({"matchLabels": {"release": "x"}}, {}, []),
        (None, {}, ["MonitoringNotSelected"]),
        ({"matchLabels": {"release": "y"}}, {}, ["MonitoringNotSelected"]),
        ({}, None, ["MonitoringNotSelected"]),
        ({}, {"matchLabels": {"kubernetes.io/metadata.name": "other"}}, ["MonitoringNotSelected"]),
    ],
)
def test_rules_that_no_prometheus_selects_are_reported_too(
    rule_selector: Any, rule_namespaces: Any, expected: list[str]
) -> None:
    found = prometheus({}, {}, "monitoring")
    found["spec"] |= {"ruleSelector": rule_selector, "ruleNamespaceSelector": rule_namespaces}
    subject = service(monitoring={"labels": {"release": "x"}})
    cluster = {"has_service_monitor": True, "has_prometheus_rule": True, "prometheuses": [found]}
    assert reasons(subject, **cluster) == expected
    assert reasons(service(monitoring={"labels": {"release": "x"}, "prometheusRule": "Disabled"}), **cluster) == []


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(None, []), ({"team": "a"}, []), ({"team": "b"}, ["MonitoringNotSelected"]), ({}, ["MonitoringNotSelected"])],
)
def test_the_labels_of_the_namespace_decide_if_they_are_known(
    labels: dict[str, str] | None, expected: list[str]
) -> None:
    found = [prometheus({}, {"matchLabels": {"team": "a"}}, "monitoring")]
    cluster = {"has_service_monitor": True, "prometheuses": found, "namespace_labels": labels}
    assert reasons(service(), **cluster) == expected


def test_a_label_of_the_operators_settings_is_enough_and_the_message_says_which_is_missing() -> None:
    found = [prometheus({"matchLabels": {"release": "prom"}}, {}, "monitoring")]
    cluster = {"has_service_monitor": True, "prometheuses": found}
    assert reasons(service(), **cluster, monitoring=MonitoringDefaults({"release": "prom"})) == []
    (warning,) = [item for item in planned(service(), **cluster).warnings if item.reason == "MonitoringNotSelected"]
    assert "monitoring/main wants the labels release=prom in namespaces with any labels" in warning.message
    assert "the chart's value monitoring.labels" in warning.message


def test_what_a_prometheus_demands_is_said_in_words() -> None:
    expressions = [{"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "Exists"}]
    found = [prometheus({"matchExpressions": expressions}, None, "m"), prometheus(None, {"matchLabels": {"t": "u"}})]
    assert demands("serviceMonitor", found) == (
        "m/main wants the labels a In b,c, d Exists in its own namespace; "
        "default/main wants no object in namespaces with the labels t=u"
    )


def test_unknown_prometheuses_are_no_reason_to_warn() -> None:
    assert reasons(service(), has_service_monitor=True) == []


SCRAPED = {
    "has_service_monitor": True,
    "prometheuses": [prometheus({}, {}, "monitoring"), prometheus(None, None, "default", "other")],
}


class TestScrapersAndTheNetworkPolicy:
    """A NetworkPolicy of ours lets Prometheus in, or says that it does not."""

    def peers(self, **spec: Any) -> list[Object]:
        subject = service(networkPolicy={"enabled": True}, **spec)
        return list(child(subject, "NetworkPolicy", **SCRAPED)["spec"]["ingress"][0]["from"][1:-1])

    def test_the_prometheus_that_selects_the_monitor_is_admitted(self) -> None:
        assert self.peers() == [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
                "podSelector": {"matchLabels": {"operator.prometheus.io/name": "main"}},
            }
        ]
        assert reasons(service(networkPolicy={"enabled": True}), **SCRAPED) == []

    def test_given_peers_replace_it(self) -> None:
        given = [{"namespaceSelector": {"matchLabels": {"team": "observability"}}, "podSelector": {}}]
        assert self.peers(monitoring={"networkPolicyFrom": given}) == given
        assert self.peers(monitoring={"networkPolicyFrom": []}) == []

    def test_nobody_is_admitted_for_a_monitor_that_is_not_made(self) -> None:
        assert self.peers(monitoring={"serviceMonitor": "Disabled"}) == []

    def test_an_unknown_prometheus_that_is_kept_out_is_reported(self) -> None:
        unknown = {"has_service_monitor": True}
        policy = {"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
        assert reasons(service(networkPolicy=policy), **unknown) == ["PrometheusNotAdmitted"]
        assert reasons(service(networkPolicy=policy, monitoring={"networkPolicyFrom": []}), **unknown) == []

    @pytest.mark.parametrize(
        ("cluster", "monitoring"),
        [
            ({}, {}),  # no Prometheus Operator: annotations, static targets
            (SCRAPED, {"serviceMonitor": "Disabled"}),
            ({**SCRAPED, "prometheuses": [prometheus({"matchLabels": {"release": "x"}}, {}, "monitoring")]}, {}),
        ],
    )
    def test_a_prometheus_that_reads_no_service_monitor_is_not_kept_out_silently(
        self, cluster: Object, monitoring: Object
    ) -> None:
        subject = service(networkPolicy={"enabled": True}, monitoring=monitoring)
        (warning,) = [item for item in planned(subject, **cluster).warnings if item.reason == "PrometheusNotAdmitted"]
        assert "or to [] if none do" in warning.message
        answers: list[list[Object]] = [[], [{"namespaceSelector": {}}]]
        for given in answers:
            declared = service(networkPolicy={"enabled": True}, monitoring={**monitoring, "networkPolicyFrom": given})
            assert "PrometheusNotAdmitted" not in reasons(declared, **cluster)
        assert "PrometheusNotAdmitted" not in reasons(service(monitoring=monitoring), **cluster)

    def test_a_policy_that_admits_everybody_admits_prometheus(self) -> None:
        everybody: list[Object] = [{"namespaceSelector": {}}, {"namespaceSelector": {}, "podSelector": {}}]
        for peer in everybody:
            assert reasons(service(networkPolicy={"enabled": True, "from": [peer]})) == []
        some: Object = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}
        assert reasons(service(networkPolicy={"enabled": True, "from": [some]})) == ["PrometheusNotAdmitted"]
