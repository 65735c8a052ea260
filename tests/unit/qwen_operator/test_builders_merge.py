"""podTemplate is merged last: lists merge by key, null removes a field."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.planning.builders.merge import merge

Object = dict[str, Any]

names = st.sampled_from(["a", "b", "c", "d"])
scalars = st.one_of(st.integers(), st.text(max_size=5), st.booleans())


def named(optional: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[list[Object]]:
    """Lists of objects with a name, each name once."""
    objects = st.fixed_dictionaries({"name": names}, optional=optional)
    return st.lists(objects, unique_by=lambda item: str(item["name"]), max_size=4)


variables = named({"value": st.text(max_size=5)})
containers = named({"image": st.text(max_size=5), "env": variables})
pod_specs = st.fixed_dictionaries(
    {},
    optional={
        "containers": containers,
        "nodeSelector": st.dictionaries(names, st.text(max_size=3)),
        "priority": scalars,
    },
)


@given(pod_specs)
def test_an_empty_patch_changes_nothing(base: Object) -> None:
    assert merge(base, {}) == base


@given(pod_specs)
def test_a_patch_over_nothing_is_the_patch(patch: Object) -> None:
    assert merge({}, patch) == patch


@given(pod_specs, pod_specs)
def test_merging_twice_is_merging_once(base: Object, patch: Object) -> None:
    once = merge(base, patch)
    assert merge(once, patch) == once


@given(pod_specs, pod_specs)
def test_arguments_are_left_alone(base: Object, patch: Object) -> None:
    before = copy.deepcopy((base, patch))
    merge(base, patch)
    assert (base, patch) == before


@given(containers, containers)
def test_lists_hold_each_name_once_and_the_base_comes_first(base: list[Object], patch: list[Object]) -> None:
    merged = [item["name"] for item in merge({"containers": base}, {"containers": patch})["containers"]]
    assert len(set(merged)) == len(merged)
    assert merged[: len(base)] == [item["name"] for item in base]
    assert set(merged) == {item["name"] for item in base + patch}


def test_null_removes_a_field() -> None:
    assert merge({"a": 1, "b": {"c": 2, "d": 3}}, {"a": None, "b": {"c": None}}) == {"b": {"d": 3}}


def test_item_is_deleted_by_directive() -> None:
    base = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    assert merge(base, {"env": [{"name": "A", "$patch": "delete"}]}) == {"env": [{"name": "B", "value": "2"}]}


def test_object_is_replaced_by_directive() -> None:
    base = {"securityContext": {"runAsUser": 1, "runAsNonRoot": True}}
    assert merge(base, {"securityContext": {"$patch": "replace", "runAsUser": 0}}) == {
        "securityContext": {"runAsUser": 0}
    }


def test_directives_never_reach_the_result() -> None:
    assert merge({}, {"env": [{"name": "A", "$patch": "delete"}], "x": {"$patch": "replace"}}) == {"env": [], "x": {}}


def test_lists_without_a_key_are_replaced() -> None:
    assert merge({"args": ["a", "b"]}, {"args": ["c"]}) == {"args": ["c"]}


def test_mounts_are_identified_by_path() -> None:
    base = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    patch = {"volumeMounts": [{"name": "big", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/more"}]}
    assert [mount["name"] for mount in merge(base, patch)["volumeMounts"]] == ["big", "tmp"]


def test_ports_are_identified_by_number_and_protocol() -> None:
    base = {"ports": [{"containerPort": 8000, "protocol": "TCP", "name": "http"}]}
    patch = {"ports": [{"containerPort": 8000, "hostPort": 80}, {"containerPort": 8000, "protocol": "UDP"}]}
    merged = merge(base, patch)["ports"]
    assert merged[0] == {"containerPort": 8000, "protocol": "TCP", "name": "http", "hostPort": 80}
    assert len(merged) == 2


def test_another_volume_source_displaces_the_first() -> None:
    base = {"volumes": [{"name": "tmp", "emptyDir": {}}]}
    patch = {"volumes": [{"name": "tmp", "hostPath": {"path": "/scratch"}}]}
    assert merge(base, patch)["volumes"] == [{"name": "tmp", "hostPath": {"path": "/scratch"}}]


def test_same_volume_source_is_merged() -> None:
    base = {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]}
    patch = {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}]}
    assert merge(base, patch)["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_value_and_source_of_a_variable_displace_each_other() -> None:
    base = {"env": [{"name": "A", "value": "1"}]}
    patch = {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}
    assert "value" not in merge(base, patch)["env"][0]


def test_another_probe_handler_displaces_the_first() -> None:
    base = {"livenessProbe": {"httpGet": {"path": "/"}, "periodSeconds": 5}}
    merged = merge(base, {"livenessProbe": {"exec": {"command": ["true"]}}})
    assert merged["livenessProbe"] == {"exec": {"command": ["true"]}, "periodSeconds": 5}


def test_an_invalid_name_is_left_to_the_api_server() -> None:
    nonsense = {"name": {"a": ["b"]}, "image": "x"}
    assert merge({"containers": [{"name": "server"}]}, {"containers": [nonsense]})["containers"][1] == nonsense
