"""What manifests/ has for Argo CD, Flux and kustomize."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml
from charts import generate
from lupa.lua51 import LuaRuntime

from .conftest import CHART, ROOT

MANIFESTS = ROOT / "manifests"
KEY = "resource.customizations.health.qwen-vllm.io_QwenService"


def documents(path: str) -> list[dict[str, Any]]:
    return generate.documents((MANIFESTS / path).read_text(encoding="utf-8"))


def health(status: dict[str, Any] | None, generation: int = 2) -> tuple[str, str]:
    """Status and message by the check, in the version of Lua that Argo CD has."""
    (config,) = documents("argocd/argocd-cm.yaml")
    lua = LuaRuntime()
    obj: dict[str, Any] = {"metadata": {"name": "news", "generation": generation}, "spec": {}}
    if status is not None:
        obj["status"] = status
    lua.globals().obj = lua.table_from(obj, recursive=True)
    found = lua.execute(config["data"][KEY])
    return str(found["status"]), str(found["message"])


def status(observed: int = 2, **conditions: tuple[str, str, str]) -> dict[str, Any]:
    """The status of a QwenService with conditions, each with status, reason and message."""
    listed = [
        {"type": kind, "status": value, "reason": reason, "message": message}
        for kind, (value, reason, message) in conditions.items()
    ]
    return {"observedGeneration": observed, "conditions": listed}


READY = ("True", "Serving", "2 of 2 replicas serve.")
NOT_READY = ("False", "ModelLoading", "Pod news-1: loading.")
NO_REPLICAS = ("False", "ScaledToZero", "spec.replicas is 0.")
WELL = ("False", "AsExpected", "")
SETTLED = ("False", "Complete", "Everything matches the spec.")


@pytest.mark.parametrize(
    ("given", "expected", "said"),
    [
        (None, "Progressing", "has not looked at this"),
        ({}, "Progressing", "has not looked at this"),
        (status(1, Ready=READY, Degraded=WELL, Progressing=SETTLED), "Progressing", "the last change"),
        (status(Ready=READY, Degraded=WELL, Progressing=SETTLED), "Healthy", "2 of 2 replicas"),
        (status(Ready=READY, Degraded=WELL, Progressing=("True", "RollingOut", "")), "Progressing", "RollingOut"),
        (status(Ready=NOT_READY, Degraded=WELL, Progressing=("True", "ModelLoading", "a")), "Progressing", "a"),
        (status(Ready=NOT_READY, Degraded=WELL, Progressing=SETTLED), "Progressing", "ModelLoading: Pod news-1"),
        (status(Ready=READY, Degraded=("True", "RolloutStalled", "b"), Progressing=SETTLED), "Degraded", "b"),
        (status(Ready=NOT_READY, Degraded=("True", "OutOfMemory", "raise")), "Degraded", "OutOfMemory: raise"),
        (status(Ready=READY, Degraded=WELL, Progressing=("False", "UpdatePending", "c")), "Healthy", "Serving"),
        (status(Ready=NO_REPLICAS, Degraded=WELL), "Healthy", "ScaledToZero: spec.replicas is 0."),
        (status(Ready=NO_REPLICAS, Degraded=WELL, Progressing=SETTLED), "Healthy", "ScaledToZero: spec.replicas is 0."),
        (status(1, Ready=NO_REPLICAS, Degraded=WELL), "Progressing", "the last change"),
        (status(Ready=NO_REPLICAS, Degraded=("True", "InvalidSpec", "d")), "Degraded", "InvalidSpec: d"),
        (status(Degraded=WELL), "Progressing", "has not said whether"),
    ],
    ids=str,
)
def test_argo_cd_judges_a_service_by_its_conditions(given: dict[str, Any] | None, expected: str, said: str) -> None:
    found, message = health(given)
    assert (found, said in message) == (expected, True), message


def test_values_of_the_examples_are_values_of_the_chart() -> None:
    (application,) = documents("argocd/application.yaml")
    release = next(item for item in documents("flux/operator.yaml") if item["kind"] == "HelmRelease")
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for values in (application["spec"]["source"]["helm"]["valuesObject"], release["spec"]["values"]):
        jsonschema.Draft7Validator(schema).validate(values)
    assert "ServerSideApply=true" in application["spec"]["syncPolicy"]["syncOptions"]


def test_examples_name_the_version_and_the_folder_of_the_chart() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    (application,) = documents("argocd/application.yaml")
    source, release = documents("flux/operator.yaml")
    folder = str(CHART.relative_to(ROOT))
    assert application["spec"]["source"]["path"] == release["spec"]["chart"]["spec"]["chart"] == folder
    tag = f"v{chart['version']}"
    assert application["spec"]["source"]["targetRevision"] == source["spec"]["ref"]["tag"] == tag


def test_flux_does_not_uninstall_the_operator_because_a_service_fails_the_test() -> None:
    release = next(item for item in documents("flux/operator.yaml") if item["kind"] == "HelmRelease")["spec"]
    assert release["test"]["enable"] is True
    assert release["install"]["remediation"]["ignoreTestFailures"] is True
    assert release["upgrade"]["remediation"]["retries"] == 0


def test_flux_waits_for_conditions_that_the_operator_writes() -> None:
    (kustomization,) = documents("flux/services.yaml")
    (checks,) = kustomization["spec"]["healthCheckExprs"]
    assert (checks["apiVersion"], checks["kind"]) == ("qwen-vllm.io/v1alpha1", "QwenService")
    assert "'Ready'" in checks["current"]
    # An autoscaler may take the last pod. Flux would wait for an hour and report a failure.
    assert "c.reason == 'ScaledToZero'" in checks["current"]
    assert "'Degraded'" in checks["failed"]
    assert kustomization["spec"]["wait"] is True


def test_the_overlay_of_monitoring_labels_the_objects_of_services_too() -> None:
    (overlay,) = documents("overlays/monitoring/kustomization.yaml")
    of_the_operator, of_services = (yaml.safe_load(entry["patch"]) for entry in overlay["patches"])
    (added,) = of_the_operator
    label = added["path"].removeprefix("/metadata/labels/")
    (container,) = of_services["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "QWEN_OPERATOR_MONITORING_LABELS", "value": f"{label}={added['value']}"}]


@pytest.mark.parametrize("name", ["registry", "monitoring"])
def test_overlays_name_the_variables_that_the_operator_reads(name: str) -> None:
    (overlay,) = documents(f"overlays/{name}/kustomization.yaml")
    patched = yaml.safe_load(overlay["patches"][-1]["patch"])
    (container,) = patched["spec"]["template"]["spec"]["containers"]
    installed = next(item for item in documents("install.yaml") if item["kind"] == "Deployment")
    (operator,) = installed["spec"]["template"]["spec"]["containers"]
    assert container["name"] == operator["name"]
    assert {item["name"] for item in container["env"]} <= {item["name"] for item in operator["env"]}
