"""LoRA adapters of a QwenService in a running pod with real vLLM: ConfigMap, kubelet and server."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.demo import said
from tests.cluster.settings import Settings
from tests.e2e.clients import restarts, service_url, uids
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.pages import json_page, status
from tests.e2e.services import ask_through_service, qwen_service
from tests.integration.builtin_model import NAME as MODEL
from tests.integration.builtin_model import QUESTION
from tests.lora_adapters import make_adapter, write_config

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "news"
FILES = "adapters"
FOLDER = "/adapters"
MAX_RANK = 8
# The operator annotates the pods, so the kubelet brings the change at once; by itself it would look
# after a minute. On a busy node, the engine loads an adapter in some seconds.
SECONDS = 180
CHAT = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 12}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two adapters, and one whose rank is higher than the service allows."""
    for seed, name in enumerate(("sport", "finance", "broken"), start=1):
        make_adapter(tmp_path / name, seed=seed)
    write_config(tmp_path / "broken", rank=2 * MAX_RANK)
    return tmp_path


def config_map(folder: Path) -> Object:
    """The files of all adapters. They are less than 1 MiB."""
    data = {key: base64.b64encode((folder / path).read_bytes()).decode() for key, path in paths(folder).items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": FILES}, "binaryData": data}


def paths(folder: Path) -> dict[str, str]:
    """Where each file lies, by a name without a slash."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {path.replace("/", "."): path for path in found}


def service(folder: Path, *adapters: str) -> Object:
    """A service with these adapters. The files of all of them are in its pods."""
    items = [{"key": key, "path": path} for key, path in paths(folder).items()]
    mount = {"name": FILES, "mountPath": FOLDER, "readOnly": True}
    template = {
        "containers": [{"name": "server", "volumeMounts": [mount]}],
        "volumes": [{"name": FILES, "configMap": {"name": FILES, "items": items}}],
    }
    return qwen_service(
        NAME,
        lora={"maxAdapters": 4, "maxRank": MAX_RANK},
        adapters=[{"name": name, "source": {"path": f"{FOLDER}/{name}"}} for name in adapters],
        podTemplate={"spec": template},
    )


def wait_loaded(kubectl: Kubectl, *names: str) -> None:
    """Waits until the status says of these adapters, and of no others, that the pod has them."""
    loaded = [{"name": name, "pods": "1/1", "reason": "Loaded", "message": ""} for name in names]
    wait_for(lambda: adapters(kubectl) == loaded, SECONDS, lambda: f"the status says {adapters(kubectl)}")


def adapters(kubectl: Kubectl) -> list[Object]:
    found: list[Object] = kubectl.get("qwenservice", NAME)["status"].get("adapters", [])
    return found


def served(kubectl: Kubectl, cluster: Settings) -> dict[str, str | None]:
    """The names that the server lists, each with its parent."""
    cards = json_page(cluster, f"{service_url(kubectl, NAME)}/v1/models")["data"]
    return {card["id"]: card["parent"] for card in cards}


def ask(kubectl: Kubectl, cluster: Settings, model: str) -> str:
    """The text of the answer to a question, by the model or an adapter."""
    body: dict[str, Any] = CHAT | {"model": model}
    answer = ask_through_service(kubectl, cluster, NAME, "/v1/chat/completions", body)
    assert answer["model"] == model
    return said(answer["choices"][0])


def test_a_running_pod_gets_an_adapter_and_says_why_it_refuses_another(
    kubectl: Kubectl, cluster: Settings, folder: Path
) -> None:
    kubectl.apply(config_map(folder), service(folder, "sport"))
    kubectl.wait_ready(NAME, timeout=480)
    models = f"{service_url(kubectl, NAME)}/v1/models"
    wait_for(lambda: status(cluster, models) == 200, 30, "kube-proxy leads to no pod")
    assert served(kubectl, cluster) == {MODEL: None, "sport": MODEL}, "the pod was ready without its adapter"
    wait_loaded(kubectl, "sport")
    before, deployment = kubectl.pods(NAME), kubectl.get("deployment", NAME)
    answers = {name: ask(kubectl, cluster, name) for name in (MODEL, "sport")}

    kubectl.apply(service(folder, "sport", "finance"))
    wait_loaded(kubectl, "sport", "finance")
    assert served(kubectl, cluster) == {MODEL: None, "sport": MODEL, "finance": MODEL}
    answers["finance"] = ask(kubectl, cluster, "finance")
    assert len(set(answers.values())) == 3, f"an adapter answers like another or like the model: {answers}"

    kubectl.apply(service(folder, "sport", "finance", "broken"))
    wait_for(
        lambda: [item["reason"] for item in adapters(kubectl)] == ["Loaded", "Loaded", "Failed"],
        SECONDS,
        lambda: f"the status says {adapters(kubectl)}",
    )
    broken = adapters(kubectl)[-1]
    cause = f"its rank is {2 * MAX_RANK}, and the highest is {MAX_RANK} (set by --max-lora-rank)"
    assert (broken["name"], broken["pods"]) == ("broken", "0/1")
    assert broken["message"] == f"Pod {before[0]['metadata']['name']}: {cause}"
    kubectl.wait_reason(NAME, "HasWarnings", "AdapterFailed", 30)
    wait_for(lambda: "AdapterFailed" in kubectl.events(NAME), 30, "no Event says AdapterFailed")
    assert {name: ask(kubectl, cluster, name) for name in answers} == answers

    kubectl.apply(service(folder, "finance"))
    wait_loaded(kubectl, "finance")
    assert served(kubectl, cluster) == {MODEL: None, "finance": MODEL}
    assert ask(kubectl, cluster, "finance") == answers["finance"]
    check_no_restart(kubectl, before, deployment)


def check_no_restart(kubectl: Kubectl, before: list[Object], deployment: Object) -> None:
    """Asserts that the pod and its container are those of before, and no rollout has begun."""
    assert uids(kubectl.pods(NAME)) == uids(before)
    assert restarts(kubectl, before[0]["metadata"]["name"]) == 0
    now = kubectl.get("deployment", NAME)
    assert now["metadata"]["generation"] == deployment["metadata"]["generation"]
    assert now["spec"]["template"] == deployment["spec"]["template"]
