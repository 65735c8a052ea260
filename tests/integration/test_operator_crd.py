"""The CRD in a real API server: defaults, and validation errors that name the field."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import pytest

import pod_schema
from tests.integration.admin_api import QS, AdminApi, path, qwen_service
from tests.integration.control_plane import ControlPlane, find_program
from tests.unit.qwen_operator.bad_specs import BAD_SPECS, UNKNOWN_MODEL, BadSpec
from tests.unit.qwen_operator.good_specs import GOOD_SPECS

pytestmark = pytest.mark.cluster

SAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "samples").glob("*.yaml"))
GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"


def kubectl_apply(plane: ControlPlane, namespace: str, obj: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The result of `kubectl apply`."""

    command = [find_program("kubectl"), "--kubeconfig", plane.kubeconfig, "-n", namespace, "apply", "-f", "-"]
    return subprocess.run(
        list(map(str, command)), input=json.dumps(obj), capture_output=True, text=True, check=False, timeout=60
    )


def spec_with(section: str, value: Any) -> dict[str, Any]:
    obj = qwen_service()
    place = obj["spec"]
    *parents, last = section.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return obj


def test_defaults_are_filled_in(api: AdminApi) -> None:
    created = api.create(qwen_service())
    spec = created["spec"]
    assert "replicas" not in spec  # the operator writes it: see test_operator_reconcile.py
    assert spec["engine"]["tensorParallelSize"] == 1
    assert spec["limits"]["maxConcurrentRequests"] == 3
    assert spec["limits"]["maxQueueSize"] == 10
    assert spec["limits"]["queueTimeout"] == "30s"
    assert spec["service"]["port"] == 8000
    remediation = spec["remediation"]
    assert remediation["mode"] == "Enforce"
    assert remediation["pollInterval"] == "2s"
    assert remediation["minReadyReplicas"] == 1
    assert remediation["restartBudget"]["window"] == "1h"
    assert remediation["backoff"] == {"base": "30s", "max": "10m"}


def test_the_smallest_service_is_enough(plane: ControlPlane, api: AdminApi) -> None:
    smallest = {
        "apiVersion": QS,
        "kind": "QwenService",
        "metadata": {"name": "small"},
        "spec": {"model": {"source": {"builtin": "news-classifier"}}},
    }
    result = kubectl_apply(plane, api.namespace, smallest)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_accepted(plane: ControlPlane, api: AdminApi, sample: Path) -> None:
    command = [find_program("kubectl"), "--kubeconfig", plane.kubeconfig, "-n", api.namespace, "apply", "-f", sample]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("engine.tensorParalellSize", 2, 'unknown field "spec.engine.tensorParalellSize"'),
        ("model.source.pvc", {"claimName": "models"}, "spec.model.source"),
        ("model.source", {}, "spec.model.source"),
        ("replicas", "three", "spec.replicas"),
        ("replicas", -1, "spec.replicas"),
        ("engine.device", "tpu", "spec.engine.device"),
        ("limits.queueTimeout", "soon", "spec.limits.queueTimeout"),
        ("remediation.mode", "Sometimes", "spec.remediation.mode"),
        ("remediation.rules", [{"alert": "HighTTFT", "action": "Restart"}], "spec.remediation.rules[0].action"),
        ("remediation.backoff", {"base": "1h", "max": "1m"}, "spec.remediation.backoff"),
    ],
)
def test_bad_input_is_refused_with_the_field(
    plane: ControlPlane, api: AdminApi, section: str, value: Any, expected: str
) -> None:
    result = kubectl_apply(plane, api.namespace, spec_with(section, value))
    assert result.returncode != 0
    assert expected in result.stderr
    assert not api.objects(QS, "qwenservices")


@pytest.mark.parametrize("bad", [*BAD_SPECS, UNKNOWN_MODEL], ids=str)
def test_a_spec_that_would_be_silently_wrong_is_refused_with_field_and_rule(api: AdminApi, bad: BadSpec) -> None:
    obj = qwen_service()
    bad.put(obj["spec"])
    with pytest.raises(urllib.error.HTTPError) as caught:
        api.create(obj)
    answer = json.loads(caught.value.read())
    assert answer["reason"] == "Invalid"
    causes = [(cause["field"], cause["message"]) for cause in answer["details"]["causes"]]
    assert any(field == bad.named and bad.text in message for field, message in causes), causes


@pytest.mark.parametrize("name", GOOD_SPECS)
def test_a_good_spec_is_accepted_and_kept_as_it_is(api: AdminApi, name: str) -> None:
    obj = {**qwen_service(), "spec": GOOD_SPECS[name]}
    assert has(api.create(obj)["spec"], GOOD_SPECS[name])


def has(stored: Any, given: Any) -> bool:
    """Whether a stored value is the given one, defaults aside."""
    if isinstance(given, dict):
        return isinstance(stored, dict) and all(key in stored and has(stored[key], part) for key, part in given.items())
    if isinstance(given, list):
        return len(stored) == len(given) and all(map(has, stored, given))
    return bool(stored == given)


def test_a_model_of_an_image_of_ones_own_is_accepted(api: AdminApi) -> None:
    obj = qwen_service(model={"source": {"builtin": "mine"}}, engine={"device": "cpu", "image": "registry/mine:1"})
    assert api.create(obj)["spec"]["model"]["source"] == {"builtin": "mine"}


def test_more_parallelism_than_gpus_is_refused(plane: ControlPlane, api: AdminApi) -> None:
    obj = spec_with("engine", {"device": "cuda", "tensorParallelSize": 4})
    obj["spec"]["gpu"] = {"count": 2}
    result = kubectl_apply(plane, api.namespace, obj)
    assert result.returncode != 0
    assert "spec.gpu.count" in result.stderr
    assert "tensorParallelSize" in result.stderr


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        ({"terminationGracePeriodSecond": 5}, 'unknown field "spec.podTemplate.spec.terminationGracePeriodSecond"'),
        ({"terminationGracePeriodSeconds": "5"}, "spec.podTemplate.spec.terminationGracePeriodSeconds"),
        ({"containers": [{"image": "a"}]}, "spec.podTemplate.spec.containers[0].name"),
        ({"containers": {"name": "server"}}, "spec.podTemplate.spec.containers"),
        ({"containers": [{"name": ["server"]}]}, "spec.podTemplate.spec.containers[0].name"),
        ({"containers": [{"name": "server", "imagePullPolicy": "Sometimes"}]}, "imagePullPolicy"),
        ({"containers": [{"name": "server", "resources": {"limits": {"memory": "16GB"}}}]}, "limits.memory"),
        ({"volumes": [{"name": "a", "hostPaht": {"path": "/"}}]}, "hostPaht"),
        ({"tolerations": [{"key": 5}]}, "spec.podTemplate.spec.tolerations[0].key"),
    ],
)
def test_errors_in_the_pod_template_are_refused(
    plane: ControlPlane, api: AdminApi, pod: dict[str, Any], text: str
) -> None:
    result = kubectl_apply(plane, api.namespace, spec_with("podTemplate", {"spec": pod}))
    assert result.returncode != 0
    assert text in result.stderr


def test_depth_of_the_pod_template_is_bounded(api: AdminApi) -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep}
    where = path(QS, "qwenservices", api.namespace)
    # Without strict validation, what the schema does not know is dropped.
    created = api.plane.request("POST", where, spec_with("podTemplate", {"spec": {"hostNetwork": True, "a": deep}}))
    assert created["spec"]["podTemplate"]["spec"] == {"hostNetwork": True}


def test_null_and_patch_directives_of_the_pod_template_are_kept(api: AdminApi) -> None:
    pod = {
        "topologySpreadConstraints": None,
        "restartPolicy": None,
        "nodeSelector": {"disk": None},
        "securityContext": {"$patch": "replace", "runAsUser": 1},
        "containers": [
            {"name": "server", "resources": {"limits": {"cpu": 2, "memory": None}}, "imagePullPolicy": None},
            {"name": "proxy", "$patch": "delete"},
        ],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
    }
    created = api.create(spec_with("podTemplate", {"spec": pod}))
    assert created["spec"]["podTemplate"]["spec"] == pod


def test_schema_of_pods_is_that_of_the_api_server(plane: ControlPlane) -> None:
    openapi = plane.request("GET", "/openapi/v3/api/v1")
    assert pod_schema.PATH.read_text(encoding="utf-8") == pod_schema.render(
        pod_schema.compact(openapi), pod_schema.minor_version(openapi)
    )


def test_columns_are_printed(plane: ControlPlane, api: AdminApi) -> None:
    api.create(qwen_service())
    command = [find_program("kubectl"), "--kubeconfig", plane.kubeconfig, "-n", api.namespace, "get", "qs"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=60)
    head = result.stdout.splitlines()[0].split()
    assert head == ["NAME", "READY", "REPLICAS", "MODEL", "URL", "AGE"]


def test_the_quota_of_the_guide_is_accepted(plane: ControlPlane, api: AdminApi) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    [quota] = [block for block in blocks if "kind: ResourceQuota" in block]
    quota = quota.replace("namespace: team-a", f"namespace: {api.namespace}")
    assert "created" in plane.kubectl("create", "--dry-run=server", "-f", "-", text=quota)
