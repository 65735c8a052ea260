"""Which objects belong to a service, and which of them still are what was applied."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from qwen_operator.planning.builders.list_items import ListItems
from qwen_operator.planning.builders.ownership import is_applied, is_ours, stamped
from tests.unit.qwen_operator.objects import UID, Object, child, planned, service

FULL = service(
    cache={"size": "1Gi"},
    networkPolicy={"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
    autoscaling={"maxReplicas": 3},
    scheduling={"tolerations": [{"key": "gpu", "operator": "Exists"}]},
    podTemplate={"spec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}]}},
)
# The keys by which the API server merges the items of lists; other lists are set as a whole.
LIST_KEYS = {
    "containers": ("name",), "env": ("name",), "volumes": ("name",), "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "protocol"), "hostAliases": ("ip",), "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}  # fmt: skip


def fields_of(value: Any, name: str = "") -> Object:
    """The FieldsV1 of an applied value, as the API server records it."""
    if isinstance(value, dict) and name != "selector":
        return {f"f:{key}": fields_of(part, key) for key, part in value.items()}
    if isinstance(value, list) and name in LIST_KEYS:
        return {_item(item, LIST_KEYS[name]): {".": {}, **fields_of(item)} for item in value}
    return {}


def _item(item: Object, keys: tuple[str, ...]) -> str:
    values = {key: item.get(key, "TCP") for key in keys}
    return f"k:{json.dumps(values, separators=(',', ':'))}"


def applied(desired: Object) -> Object:
    """What the API server returns for a stamped child."""
    result = copy.deepcopy(desired)
    owned = {key: value for key, value in desired.items() if key not in ("apiVersion", "kind")}
    owned["metadata"] = {key: value for key, value in owned["metadata"].items() if key not in ("name", "namespace")}
    result["metadata"]["managedFields"] = [
        {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:metadata": {"f:annotations": {"f:x": {}}}}},
        {"manager": "qwen-operator", "operation": "Apply", "fieldsV1": fields_of(owned)},
    ]
    result["metadata"]["resourceVersion"] = "7"
    return result


def ours(obj: Object) -> Object:
    """The fields that the operator owns."""
    fields: Object = obj["metadata"]["managedFields"][1]["fieldsV1"]
    return fields


@pytest.mark.parametrize("kind", [obj["kind"] for obj in planned(FULL).children])
def test_an_applied_child_is_recognized(kind: str) -> None:
    desired = stamped(child(FULL, kind))
    assert is_applied(desired, applied(desired))


@pytest.mark.parametrize("kind", [obj["kind"] for obj in planned(FULL).children])
def test_another_wish_must_be_applied(kind: str) -> None:
    live = applied(stamped(child(FULL, kind)))
    other = copy.deepcopy(child(FULL, kind))
    other["metadata"]["labels"]["new"] = "label"
    assert not is_applied(stamped(other), live)


def lose_image(fields: Object) -> None:
    containers = fields["f:spec"]["f:template"]["f:spec"]["f:containers"]
    del containers['k:{"name":"server"}']["f:image"]


def lose_variable(fields: Object) -> None:
    containers = fields["f:spec"]["f:template"]["f:spec"]["f:containers"]
    del containers['k:{"name":"server"}']["f:env"]['k:{"name":"HOME"}']


def lose_replicas(fields: Object) -> None:
    del fields["f:spec"]["f:replicas"]


def lose_label(fields: Object) -> None:
    del fields["f:metadata"]["f:labels"]["f:app.kubernetes.io/part-of"]


def lose_owner(fields: Object) -> None:
    del fields["f:metadata"]["f:ownerReferences"]


def lose_all(fields: Object) -> None:
    fields.clear()


@pytest.mark.parametrize("lose", [lose_image, lose_variable, lose_replicas, lose_label, lose_owner, lose_all])
def test_a_field_that_somebody_took_or_removed_is_drift(lose: Callable[[Object], None]) -> None:
    desired = stamped(child(FULL, "Deployment"))
    live = applied(desired)
    lose(ours(live))
    assert not is_applied(desired, live)


def test_what_others_add_is_no_drift() -> None:
    desired = stamped(child(FULL, "Deployment"))
    live = applied(desired)
    live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "2"
    live["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    live["status"] = {"replicas": 1}
    assert is_applied(desired, live)


def test_an_object_without_records_must_be_applied() -> None:
    desired = stamped(child(FULL, "Service"))
    assert not is_applied(desired, copy.deepcopy(desired))


def orphan(**metadata: Any) -> Object:
    found = copy.deepcopy(child(FULL, "Service"))
    del found["metadata"]["ownerReferences"]
    found["metadata"].update(metadata)
    return found


def test_what_the_service_owns_is_its_own_whatever_its_labels() -> None:
    assert is_ours({"metadata": {"name": "x", "ownerReferences": [{"uid": UID}]}}, FULL)


def test_an_orphan_with_the_labels_of_the_service_is_adopted() -> None:
    assert is_ours(orphan(), FULL)
    assert is_ours(orphan(ownerReferences=[{"uid": "application", "controller": False}]), FULL)


def test_what_has_another_controller_or_other_labels_is_somebody_elses() -> None:
    assert not is_ours(orphan(ownerReferences=[{"uid": "other", "controller": True}]), FULL)
    assert not is_ours(orphan(labels={"app": "news"}), FULL)
    assert not is_ours(orphan(), service("other"))


def test_an_orphaned_budget_of_the_service_does_not_count_as_the_users() -> None:
    budget = copy.deepcopy(child(service(), "PodDisruptionBudget"))
    del budget["metadata"]["ownerReferences"]
    assert child(service(), "PodDisruptionBudget", budgets=[budget])


def wide(length: int, item: Callable[[int], Object]) -> Object:
    """A Deployment with a list of variables of this length."""
    desired = copy.deepcopy(child(FULL, "Deployment"))
    server = desired["spec"]["template"]["spec"]["containers"][0]
    server["env"] = [item(number) for number in range(length)]
    return stamped(desired)


def seconds_of(desired: Object, live: Object) -> float:
    """The shortest of three comparisons, in seconds of CPU: other programs do not count."""
    durations = []
    for _ in range(3):
        started = time.thread_time()
        assert is_applied(desired, live)
        durations.append(time.thread_time() - started)
    return min(durations)


def test_a_list_of_thousands_is_compared_in_one_pass() -> None:
    durations = []
    for length in (2_500, 10_000):
        desired = wide(length, lambda number: {"name": f"V{number}", "value": "x"})
        durations.append(seconds_of(desired, applied(desired)))
    assert durations[0] < 0.2
    assert durations[1] < 8 * durations[0] + 0.02  # with a pass for each item, 16 times


def test_records_that_somebody_has_made_are_compared_in_one_pass() -> None:
    desired = wide(2_000, lambda number: {"name": "V", "value": str(number)})
    live = applied(desired)
    containers = ours(live)["f:spec"]["f:template"]["f:spec"]["f:containers"]
    several = [json.dumps({"name": "V", "made": number}) for number in range(2_000)]
    other_keys = [json.dumps({f"key{number}": 1, "name": "V"}) for number in range(2_000)]
    containers['k:{"name":"server"}']["f:env"] = {
        **{f"k:{name}": {"f:other": {}} for name in ("not JSON", "[" * 5_000, *several)},
        'k:{"name":"V"}': {},
        **{f"k:{name}": {"f:other": {}} for name in other_keys},
    }
    assert seconds_of(desired, live) < 0.2


def test_an_item_without_one_of_its_keys_has_the_default_of_the_api_server() -> None:
    fields: Object = {
        'k:{"containerPort":80,"protocol":"TCP"}': {},
        'k:{"containerPort":80,"protocol":"UDP"}': {},
        "v:1": {},
    }
    items = ListItems(fields)
    assert items.names_of({"containerPort": 80}) == list(fields)[:2]
    assert items.names_of({"containerPort": 80, "protocol": "UDP"}) == list(fields)[1:2]
    assert items.names_of({"containerPort": 81}) == []
    assert items.names_of({"name": "http"}) == []
    assert (items.names_of(1), items.names_of(2)) == (["v:1"], [])
