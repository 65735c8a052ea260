"""What remediation counts: every counter begins with 0, and names the service as its pods do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwen_operator.api import RemediationStatus
from qwen_operator.api.objects import Key
from qwen_operator.api.series import labels_of
from qwen_operator.process.operator_metrics import REGISTRY
from qwen_operator.remediation import figures
from qwen_operator.remediation.values import Evidence, Pod, Round
from tests.unit.qwen_operator.remediation_world import World, policy
from tests.unit.qwen_operator.test_remediator import KEY, OneService
from tests.unit.qwen_operator.test_remediator_rounds import remediator_of

DOTTED: Key = ("team", "qwen2.5-7b")


def value(name: str, key: Key, **labels: str) -> float | None:
    namespace, service, qwenservice = labels_of(key)
    of_service = {"namespace": namespace, "service": service, "qwenservice": qwenservice}
    return REGISTRY.get_sample_value(name, {**of_service, **labels})


def test_the_series_of_a_dotted_name_have_the_name_of_the_kubernetes_service() -> None:
    namespace, service, qwenservice = labels_of(DOTTED)
    assert (namespace, qwenservice) == DOTTED
    assert service.startswith("qwen2-5-7b-")
    assert "." not in service
    assert labels_of(("team", "news")) == ("team", "news", "news")


def test_every_step_that_changes_a_pod_begins_with_zero() -> None:
    figures.prepare(DOTTED, policy())
    assert value("qwen_operator_restarts_total", DOTTED) == 0.0
    assert value("qwen_operator_engine_deaths_total", DOTTED) == 0.0
    steps = {
        "Unready": "TakenOutOfRotation",
        "Ready": "BackInRotation",
        "Engine": "EngineRestarted",
        "InPlace": "RestartedInPlace",
        "Evict": "Evicted",
    }
    for alert in ("EngineUnresponsive", "GenerationStalled", "GPUUnhealthy", "HighErrorRate"):
        for action, reason in steps.items():
            labels = {"alert": alert, "action": action, "reason": reason}
            assert value("qwen_operator_remediation_actions_total", DOTTED, **labels) == 0.0
    quiet = {"alert": "QueueSaturated", "action": "Unready", "reason": "TakenOutOfRotation"}
    assert value("qwen_operator_remediation_actions_total", DOTTED, **quiet) is None
    figures.forget(DOTTED)
    assert value("qwen_operator_restarts_total", DOTTED) is None
    assert value("qwen_operator_engine_deaths_total", DOTTED) is None


def test_an_alert_that_somebody_wrote_into_a_gate_makes_no_series() -> None:
    for number in range(3):
        figures.count_step(DOTTED, f"my reason {number}", "Ready", "BackInRotation")
    names = {
        sample.labels["alert"]
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "qwen_operator_remediation_actions_total" and sample.labels["qwenservice"] == DOTTED[1]
    }
    assert names == {""}
    labels = {"alert": "", "action": "Ready", "reason": "BackInRotation"}
    assert value("qwen_operator_remediation_actions_total", DOTTED, **labels) == 3.0
    figures.forget(DOTTED)


def test_what_is_known_beforehand_begins_with_zero() -> None:
    for metric, results in {
        "qwen_operator_reconciles_total": ("ok", "error", "refused"),
        "qwen_operator_polls_total": ("ok", "invalid", "no answer"),
    }.items():
        for result in results:
            assert REGISTRY.get_sample_value(metric, {"result": result}) is not None


@pytest.mark.parametrize("mode", ["Enforce", "Off"])
def test_each_death_of_an_engine_is_counted_once_in_every_mode(mode: str) -> None:
    remediator = remediator_of(OneService("2s"))
    world = World.of(1, policy(mode=mode))
    (patient,) = world.patients.values()
    figures.forget(KEY)

    def look(pod: Pod) -> float | None:
        seen = Round((pod,), {pod.uid: Evidence(1.0)}, 1)
        remediator.judge(KEY, seen, world.policy, RemediationStatus())
        return value("qwen_operator_engine_deaths_total", KEY)

    died = replace(patient.pod, restarts=1, exit_code=70, running=False, ready=False)
    assert look(patient.pod) == 0.0
    assert [look(died), look(died)] == [1.0, 1.0]
    assert look(replace(died, restarts=2)) == 2.0
    assert look(replace(died, restarts=3, exit_code=137)) == 2.0
    killed = replace(died, restarts=4, exit_code=137, out_of_memory=True)
    assert [look(killed), look(killed)] == [3.0, 3.0]
