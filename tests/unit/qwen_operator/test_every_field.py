"""No field of the spec is accepted and does nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from qwen_operator.api import InvalidSpecError, QwenService
from qwen_operator.planning.plan import Plan
from qwen_operator.remediation.policy import policy_of
from tests.unit.qwen_operator.good_specs import GOOD_SPECS, Spec
from tests.unit.qwen_operator.objects import UID, Object, child, planned, serving
from tests.unit.qwen_operator.test_crd import POD, at, nodes, schema

Place = tuple[str | int, ...]
"""Keys of objects and indexes of lists, from the spec on."""

FULL: Object = {
    f"has_{api}": True
    for api in ("service_monitor", "prometheus_rule", "http_route", "scaled_object", "resource_claims")
}
OLDER: Object = {"operator_version": "0.9.0", "server_images": {"cpu": "server:old", "cuda": "server:old"}}


def effect(spec: Spec) -> str:
    """What the operator makes of a spec: in a bare cluster, in a full one, after an upgrade, and
    before the model is there.
    """
    try:
        subject = QwenService.parse({"metadata": {"name": "news", "uid": UID}, "spec": spec})
    except InvalidSpecError as error:
        return f"refused: {error}"
    before = serving(child(subject, "Deployment", **OLDER))
    plans = [planned(subject), planned(subject, **FULL), planned(subject, live_deployment=before)]
    plans.append(planned(subject, jobs=()))  # before a Job has downloaded the model
    return json.dumps([[written(plan) for plan in plans], repr(policy_of(subject.spec))], sort_keys=True)


def written(plan: Plan) -> Object:
    """A plan without the annotations that only record the spec."""
    children = copy.deepcopy(list(plan.children))
    for obj in children:
        annotations = obj["metadata"].get("annotations") or {}
        obj["metadata"]["annotations"] = {
            name: value for name, value in annotations.items() if not name.startswith("qwen-vllm.io/")
        }
    return {"children": children, "removed": list(plan.removed), "warnings": list(plan.warnings)}


def used(value: Any, path: str = ".spec", place: Place = ()) -> Iterator[tuple[str, Place]]:
    """The fields that a part of a spec uses, with their paths in the schema."""
    if place:
        yield path, place
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from used(part, f"{path}[]", (*place, index))
    elif isinstance(value, dict) and path != POD and not isinstance(at(path).get("additionalProperties"), dict):
        for key, part in value.items():
            yield from used(part, f"{path}.{key}", (*place, key))


def without(spec: Spec, place: Place) -> Spec:
    """A copy of the spec without one field."""
    result = copy.deepcopy(spec)
    parent: Any = result
    for step in place[:-1]:
        parent = parent[step]
    del parent[place[-1]]
    return result


def test_every_field_has_an_effect() -> None:
    fields = {
        path
        for path, _ in nodes(schema()["properties"]["spec"], ".spec")
        if path != ".spec" and not path.endswith("[]") and not path.startswith(f"{POD}.")
    }
    effective = {
        path
        for spec in GOOD_SPECS.values()
        for whole in [effect(spec)]
        for path, place in used(spec)
        if path in fields and effect(without(spec, place)) != whole
    }
    assert fields - effective == set()
