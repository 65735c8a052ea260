"""What somebody else changed in a child, and who: from the records of the API server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qwen_operator.planning.builders.drift import Drift, describe, drift_of, managers
from qwen_operator.planning.builders.ownership import stamped
from tests.unit.qwen_operator.objects import Object, child
from tests.unit.qwen_operator.test_ownership import FULL, applied, ours

CONTAINER = 'k:{"name":"server"}'


def template(fields: Object) -> Object:
    found: Object = fields["f:spec"]["f:template"]["f:spec"]
    return found


def taken(manager: str, fields: Object, operation: str = "Update") -> Object:
    """The record of another manager."""
    return {"manager": manager, "operation": operation, "fieldsV1": fields}


def deployment(lose: Callable[[Object], Any], *others: Object) -> tuple[Object, Object]:
    """A Deployment that was applied, and what others made of it."""
    desired = stamped(child(FULL, "Deployment"))
    live = applied(desired)
    lose(ours(live))
    live["metadata"]["managedFields"] += others
    return desired, live


def test_a_field_that_somebody_set_is_named_with_its_manager() -> None:
    image: Object = {"f:spec": {"f:template": {"f:spec": {"f:containers": {CONTAINER: {".": {}, "f:image": {}}}}}}}
    found = drift_of(
        *deployment(
            lambda fields: template(fields)["f:containers"][CONTAINER].pop("f:image"),
            taken("kubectl-set", image),
            taken("kube-controller-manager", {"f:status": {}}),
        )
    )
    assert found == [Drift("spec.template.spec.containers[server].image", "kubectl-set")]
    assert describe(found) == "spec.template.spec.containers[server].image (changed by kubectl-set)"
    assert managers(found) == "kubectl-set"


def test_a_field_that_somebody_removed_has_no_manager() -> None:
    def lose(fields: Object) -> None:
        template(fields)["f:containers"][CONTAINER]["f:env"].pop('k:{"name":"HOME"}')

    found = drift_of(*deployment(lose))
    assert found == [Drift("spec.template.spec.containers[server].env[HOME]", "")]
    assert describe(found).endswith("env[HOME] (removed)")
    assert managers(found) == ""


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ([], "spec.replicas (changed from 3 to 0 by an unknown field manager)"),
        ([taken("kubectl", {"f:spec": {"f:replicas": {}}})], "spec.replicas (changed from 3 to 0 by kubectl)"),
    ],
    ids=["scale to 0", "patch"],
)
def test_a_number_is_named_with_its_values(record: list[Object], text: str) -> None:
    """The API server records no manager of `kubectl scale --replicas=0`."""
    desired, live = deployment(lambda fields: fields["f:spec"].pop("f:replicas"), *record)
    desired["spec"]["replicas"], live["spec"] = 3, {**live["spec"], "replicas": 0}
    assert describe(drift_of(desired, live)) == text


def test_an_item_that_somebody_replaced_is_found_among_the_fields_of_others() -> None:
    variable: Object = {CONTAINER: {"f:env": {'k:{"name":"HOME"}': {".": {}, "f:value": {}}}}}
    record = {"f:spec": {"f:template": {"f:spec": {"f:containers": variable}}}}

    def lose(fields: Object) -> None:
        template(fields)["f:containers"][CONTAINER]["f:env"].pop('k:{"name":"HOME"}')

    [found] = drift_of(*deployment(lose, taken("argocd-controller", record, "Apply")))
    assert found == Drift("spec.template.spec.containers[server].env[HOME]", "argocd-controller")


def test_a_value_that_is_set_as_a_whole_is_one_field() -> None:
    desired = stamped(child(FULL, "Service"))
    live = applied(desired)
    del ours(live)["f:spec"]["f:selector"]
    live["metadata"]["managedFields"].append(taken("kubectl-patch", {"f:spec": {"f:selector": {}}}))
    assert drift_of(desired, live) == [Drift("spec.selector", "kubectl-patch")]


def test_of_many_fields_only_some_are_named_always_the_same() -> None:
    drift = [Drift(f"spec.field{number}", "b" if number % 2 else "a") for number in range(9, 0, -1)]
    text = "spec.field1 (changed by b), spec.field2 (changed by a), spec.field3 (changed by b) and 6 more"
    assert describe(drift) == describe(drift[::-1]) == text
    assert managers(drift) == "a, b"


def test_an_object_without_any_record_has_lost_everything() -> None:
    desired = stamped(child(FULL, "Service"))
    live = applied(desired)
    del live["metadata"]["managedFields"]
    assert Drift("spec", "") in drift_of(desired, live)


def test_nothing_is_lost_of_what_was_applied() -> None:
    assert drift_of(*deployment(lambda _: None)) == []
    assert describe([]) == "fields that it sets"


@pytest.mark.parametrize("records", [None, [], [{"manager": "x"}], [{"fieldsV1": None}]])
def test_records_of_any_form_are_borne(records: Any) -> None:
    desired = stamped(child(FULL, "ConfigMap"))
    live = {**desired, "metadata": {**desired["metadata"], "managedFields": records}}
    assert managers(drift_of(desired, live)) == ""
