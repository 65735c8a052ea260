"""The comparison of operators: what counts as a request, what a kubelet reports, the table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import generate

from benchmarks import report
from benchmarks.operators import kubelet, table
from benchmarks.operators.__main__ import _table_of, _unrest
from benchmarks.operators.audit import AuditLog, Request, Tally, policy
from benchmarks.operators.peer import Peer
from benchmarks.operators.subjects import Ours, Subject, Theirs
from benchmarks.results import Target
from qwen_operator.kube import cache
from qwen_operator.kube.resources import PODS, QWEN_SERVICES
from qwen_operator.remediation.poll import parse_metrics
from tests.cluster.settings import ROOT
from tests.unit.qwen_operator.objects import load
from tests.unit.qwen_server.serving import serve

Object = dict[str, Any]
CONDITIONS = {
    "command": "python -m benchmarks.operators --services=3",
    "runs": 2,
    "minutes": 7.4,
    "date": "2026-01-31",
    "load": 0.25,
    "kubernetes": "1.2.3",
    "machine": {"cores": 2, "cpu": "CPU", "memory_gib": 24.0, "versions": {"python": "3.11", "commit": "abc"}},
}
SAMPLE: Object = {
    "apiVersion": "production-stack.vllm.ai/v1alpha1",
    "kind": "VLLMRuntime",
    "metadata": {"name": "sample", "labels": {"a": "b"}},
    "spec": {
        "model": {"modelURL": "m", "hfTokenSecret": {"hfTokenSecretName": "t"}},
        "lmCacheConfig": {"enabled": True},
        "storageConfig": {"enabled": True},
        "deploymentConfig": {"replicas": 1, "sidecarConfig": {"enabled": True}},
    },
}


def entry(verb: str, resource: str = "", stage: str = "ResponseComplete") -> Object:
    reference = {"objectRef": {"resource": resource}} if resource else {}
    return {"stage": stage, "verb": verb, **reference}


ENTRIES = [
    entry("get"),
    entry("list", "pods"),
    entry("watch", "pods", "ResponseStarted"),
    entry("watch", "pods"),
    entry("patch", "deployments"),
    entry("create", "events"),
    entry("list", "events"),
    entry("update", "leases"),
]
TALLY = Tally(reads=1, writes=1, watches=1, discovery=1, events=2, leases=1)


def test_a_watch_counts_once_and_events_and_the_lease_apart() -> None:
    requests = [request for item in ENTRIES if (request := Request.of(item)) is not None]
    assert Tally.of(requests) == TALLY
    assert TALLY.total == 4


def test_the_audit_log_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    assert log.mark() == 0
    path.write_text("".join(json.dumps(item) + "\n" for item in ENTRIES) + '{"stage": "Resp', encoding="utf-8")
    assert log.since() == TALLY
    mark = log.mark()
    with path.open("a", encoding="utf-8") as file:
        file.write('onseComplete", "verb": "delete", "objectRef": {"resource": "services"}}\n')
    assert log.since(mark) == Tally(writes=1)
    assert log.rest(0.0, 5.0)
    assert not log.rest(5.0, 0.0)


class Clock:
    """A clock that only sleep moves. While time passes, Events are written, one each time."""

    def __init__(self, log: Path, events: int) -> None:
        self.now = 0.0
        self._log = log
        self._left = events

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._left:
            self._left -= 1
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry("create", "events")) + "\n")


@pytest.mark.parametrize(("events", "seconds"), [(False, 5.0), (True, 15.0)])
def test_the_quiet_minute_waits_for_the_last_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: bool, seconds: float
) -> None:
    path = tmp_path / "audit.log"
    clock = Clock(path, 20)  # half a second apart
    monkeypatch.setattr("benchmarks.operators.audit.time", clock)
    assert AuditLog(path).rest(5.0, 100.0, events=events)
    assert clock.now == seconds


def test_who_does_not_come_to_rest_is_named() -> None:
    figures = {"ours": [{"unrest": 0.0, "unquiet": 1.0}], "theirs": [{}, {"unrest": 1.0, "unquiet": 1.0}]}
    assert _unrest(figures) == [
        "Not at rest 90 s after all children existed: theirs.",
        "Not at rest 180 s after the pods were available, Events included: ours, theirs.",
    ]
    assert _unrest({"ours": [{"unrest": 0.0}]}) == []


def test_only_the_operator_is_recorded() -> None:
    assert yaml.safe_load(policy(["a"]))["rules"] == [{"level": "Metadata", "users": ["a"]}, {"level": "None"}]


@pytest.mark.parametrize("subject", [Ours(), Theirs(Peer(Path("p"), Path("d"), SAMPLE))], ids=lambda item: item.name)
def test_objects_have_two_replicas_in_the_namespace(subject: Subject) -> None:
    obj = subject.body("s1")
    assert obj["metadata"] == {"name": "s1", "namespace": "fleet"}
    assert subject.objects == f"/apis/{obj['apiVersion']}/namespaces/fleet/{subject.definition.split('.')[0]}"
    assert obj["spec"].get("replicas", obj["spec"].get("deploymentConfig", {}).get("replicas")) == 2


def test_the_sample_is_used_without_what_makes_further_children() -> None:
    obj = Theirs(Peer(Path("p"), Path("d"), SAMPLE)).body("s1")
    assert obj["spec"] == {"model": {"modelURL": "m"}, "deploymentConfig": {"replicas": 2}}
    assert "storageConfig" in SAMPLE["spec"]


def test_the_right_user_is_recorded() -> None:
    account = next(item for item in install() if item and item["kind"] == "ServiceAccount")["metadata"]
    assert Ours.user == f"system:serviceaccount:{account['namespace']}:{account['name']}"


def install() -> Sequence[Object]:
    return generate.documents((ROOT / "manifests" / "install.yaml").read_text(encoding="utf-8"))


def pod(*gates: str, **conditions: str) -> Object:
    return {
        "spec": {"containers": [{"name": "server"}], "readinessGates": [{"conditionType": gate} for gate in gates]},
        "status": {"conditions": [{"type": name, "status": text} for name, text in conditions.items()]},
    }


def state(body: Object | None) -> dict[str, str]:
    assert body is not None
    return {item["type"]: item["status"] for item in body["conditions"]}


def test_a_pod_is_ready_once_its_gate_is_open() -> None:
    assert state(kubelet.status(pod(), "127.1.0.1"))["Ready"] == "True"
    assert state(kubelet.status(pod("gate"), "127.1.0.1")) | {"Ready": "False", "ContainersReady": "True"} == state(
        kubelet.status(pod("gate"), "127.1.0.1")
    )
    assert state(kubelet.status(pod("gate", gate="True"), "127.1.0.1"))["Ready"] == "True"
    reported = pod("gate", gate="True", Ready="True")
    reported["status"]["podIP"] = "127.1.0.1"
    assert kubelet.status(reported, "127.1.0.1") is None


def test_pods_have_addresses_of_their_own() -> None:
    addresses = {kubelet.address(number) for number in range(10_000)}
    assert len(addresses) == 10_000
    assert all(max(int(part) for part in one.split(".")) < 255 for one in addresses)


def test_the_kubelet_knows_how_often_the_operator_polls() -> None:
    crd = load("manifests/crd.yaml")
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert spec["remediation"]["properties"]["pollInterval"]["default"] == f"{kubelet.POLL_SECONDS:g}s"


def test_the_quiet_minute_begins_when_the_pods_count_as_available() -> None:
    crd = load("manifests/crd.yaml")
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert spec["rollout"]["properties"]["minReadySeconds"]["default"] == Ours.min_ready_seconds
    assert "rollout" not in Ours().body("s1")["spec"]


def test_every_kind_may_begin_a_watch_in_a_quiet_minute() -> None:
    targets = {line.key: line.target for line in table.LINES}
    kinds = {PODS, QWEN_SERVICES, *cache._CHILDREN, *cache._OPTIONAL_CHILDREN, *cache._RESTLESS}
    assert targets["quiet_watches"] == Target("value", "<=", len(kinds))


def test_each_number_of_requests_at_rest_has_a_target() -> None:
    counted = [line for line in table.LINES if line.key.startswith(("quiet_", "restart_")) and line.unit == ""]
    assert len(counted) == 6
    assert [line.key for line in counted if line.target is None] == []


def test_the_table_compares_and_judges() -> None:
    ours = [{"children_seconds": 10.0, "quiet_writes": 0.0}, {"children_seconds": 12.0, "quiet_writes": 0.0}]
    peer = [{"children_seconds": 20.0, "quiet_writes": 900.0}, {"children_seconds": 20.0, "quiet_writes": 900.0}]
    text = table.render(table.Result.of(ours, peer, ["a note"], CONDITIONS))
    assert "| start to all children | s | 11.0 (10.0-12.0) | 20.0 | 0.550 (0.500-0.600) | ratio ≤ 0.7 | met |" in text
    assert "| writes in a quiet minute |  | 0 | 900 | 0 | ≤ 0 | met |" in text
    assert "- a note\n- `python -m benchmarks.operators --services=3`, 2 runs, 7 min, 2026-01-31; 2 cores" in text


def test_without_the_peer_there_is_no_ratio_and_a_failed_run_does_not_vanish() -> None:
    result = table.Result.of([{"settled_requests": 9.0}, {}], [], [], CONDITIONS)
    assert math.isnan(result.ours["settled_requests"][1])
    assert "| requests a service until it is at rest |  | - |  |  | ≤ 8 | **missed** |" in table.render(result)


def test_the_page_has_a_place_for_the_table() -> None:
    page = (ROOT / "benchmarks" / "OPERATOR.md").read_text(encoding="utf-8")
    assert "a table" in report.insert(page, "a table", "operator")
    assert _table_of(page, 1000) == "operator-1000"
    assert _table_of(page, 300) == _table_of(page, 30) == "operator"


async def test_the_pretended_pods_report_what_a_server_reports() -> None:
    pretended = json.loads(kubelet.ANSWER.read_text(encoding="utf-8"))
    async with serve() as served:
        reported = await served.metrics()
    assert pretended.keys() == reported.keys()
    for part in ("requests", "slo", "latency", "engine"):
        assert pretended[part].keys() == reported[part].keys(), part
    assert parse_metrics(json.dumps(pretended).encode()) is not None
