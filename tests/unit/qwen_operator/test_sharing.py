"""Equal parts of cached objects are the same objects in memory, and nothing is changed by that."""

from __future__ import annotations

import gc
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.kube import sharing
from qwen_operator.kube.projection import keeper
from qwen_operator.kube.resources import DEPLOYMENTS
from qwen_operator.kube.sharing import shared, shared_record

LEAVES = st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=60)
VALUES = st.recursive(LEAVES, lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4))


def deployment(name: str) -> dict[str, Any]:
    """As it comes from the API server, with the UID of an owner of its own."""
    fields: dict[str, Any] = {
        "f:metadata": {"f:labels": {"f:app": {}}, "f:ownerReferences": {f'k:{{"uid":"of {name}"}}': {}}},
        "f:spec": {"f:replicas": {}, "f:template": {'k:{"name":"server"}': {"f:image": {}}}},
    }
    records = [{"manager": "qwen-operator", "operation": "Apply", "fieldsV1": fields}]
    found = {"metadata": {"name": name, "managedFields": records}, "spec": {"replicas": 2, "image": "server:cpu"}}
    copy: dict[str, Any] = json.loads(json.dumps(found))
    return copy


@given(VALUES)
def test_sharing_changes_nothing(value: Any) -> None:
    assert shared(value) == value


def test_equal_parts_of_two_objects_are_one() -> None:
    one, other = (keeper(DEPLOYMENTS)(deployment(name)) for name in ("a", "b"))
    assert one == deployment("a")
    assert one["spec"]["image"] is other["spec"]["image"]
    records = [obj["metadata"]["managedFields"][0]["fieldsV1"] for obj in (one, other)]
    assert records[0]["f:spec"] is records[1]["f:spec"]
    assert records[0]["f:metadata"]["f:labels"] is records[1]["f:metadata"]["f:labels"]
    assert json.dumps(one) == json.dumps(deployment("a"))


def test_a_record_that_nothing_uses_is_forgotten() -> None:
    before = len(sharing._records)
    record = shared_record({"f:metadata": {"f:labels": {"f:only-here": {}}}})
    assert len(sharing._records) == before + 1
    del record
    gc.collect()
    assert len(sharing._records) == before


def test_a_record_of_any_depth_is_kept() -> None:
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"f:a": deep}
    assert shared_record(deep) is deep
    assert shared({"metadata": deep})["metadata"]["f:a"]
