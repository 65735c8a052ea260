"""The demo: install the operator, apply the sample, wait for Ready, and query the model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from tempfile import NamedTemporaryFile
from typing import Any

from tests.cluster import images
from tests.cluster.clusters import Cluster
from tests.cluster.console import Problem, duration, say, step
from tests.cluster.processes import wait_until
from tests.cluster.settings import ROOT
from tests.cluster.shell import output

SAMPLE = ROOT / "manifests" / "samples" / "qwen-news-classifier.yaml"
SERVICE = "qwen-news-classifier"
ASKING_POD = "qwen-demo-ask"
READY_SECONDS = 900
# The two requests of the API specification.
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "请分类这条新闻：央行宣布降息25个基点"}],
            "max_tokens": 100,
            "temperature": 0.3,
        },
    ),
    (
        "/v1/completions",
        {"prompt": "请分类：苹果发布新款iPhone\n类别：", "max_tokens": 50, "temperature": 0.3},
    ),
)
# Runs in a pod: sends its requests and prints one JSON line for each answer.
ASK = """\
import json, os, sys, urllib.request
for path, body in json.loads(os.environ["REQUESTS"]):
    request = urllib.request.Request(os.environ["URL"] + path, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(json.dumps(json.load(answer)), flush=True)
"""


class Client:
    """kubectl and helm against one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.env = {**os.environ}
        if cluster.kubeconfig is not None:
            self.env["KUBECONFIG"] = str(cluster.kubeconfig)

    def kubectl(self, *arguments: str, timeout: float = 60) -> str:
        return output([self.cluster.kubectl, *arguments], env=self.env, timeout=timeout)

    def helm(self, *arguments: str, timeout: float = 300) -> str:
        return output([self.cluster.helm, *arguments], env=self.env, timeout=timeout)

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found


def run(cluster: Cluster) -> None:
    """Run the whole demo. Raises Problem if any part of it fails."""
    cluster.prepare()
    client = Client(cluster)
    with step("helm install qwen-operator"):
        install_operator(client)
    drop_older(client)
    say(f"kubectl apply -f {SAMPLE.relative_to(ROOT)}")
    client.kubectl("apply", "-f", str(SAMPLE))
    wait_ready(client)
    answers = ask(client)
    print()
    for (path, body), answer in zip(REQUESTS, answers, strict=True):
        print(shown(service_url("default") + path, body, answer))
    print(next_steps(cluster))


def install_operator(client: Client) -> None:
    """Install or upgrade the chart with this checkout's images, and wait for the operator."""
    where = ["--namespace", "qwen-system", "--create-namespace"]
    settings = image_settings(client.cluster)
    chart = str(ROOT / "charts" / "qwen-operator")
    try:
        client.helm("upgrade", "--install", "qwen-operator", chart, *where, *settings, "--wait", "--timeout=4m")
    except Problem as problem:
        logs = ["logs", "-n", "qwen-system", "-l", "app.kubernetes.io/name=qwen-operator", "--tail=15"]
        problem.details += "\n" + _or_nothing(client, *logs)
        problem.hint = problem.hint or "see: kubectl get pods,events -n qwen-system"
        raise


def image_settings(cluster: Cluster) -> list[str]:
    """The options of helm for this checkout's images."""
    repository, _, tag = cluster.reference(images.OPERATOR).rpartition(":")
    chosen = {
        "image.repository": repository,
        "image.tag": tag,
        "serverImages.cpu": cluster.reference(images.SERVER),
    }
    return [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]


def drop_older(client: Client) -> None:
    """Delete an earlier demo's service if its server image is outdated.

    The operator does not roll out serving pods for a new operator version alone.
    """
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    running = client.kubectl("get", "deployment", SERVICE, "--ignore-not-found", "-o", path)
    if running and running != client.cluster.reference(images.SERVER):
        say(f"the server has changed since the last demo, so: kubectl delete qwenservice {SERVICE}")
        client.kubectl("delete", "qwenservice", SERVICE, "--ignore-not-found", "--timeout=60s")
        client.kubectl("wait", "--for=delete", f"deployment/{SERVICE}", "--timeout=60s")


def wait_ready(client: Client) -> None:
    """Wait for the QwenService and report each change of its Ready condition."""
    begun = time.monotonic()
    told = ""

    def ready() -> bool:
        nonlocal told
        status = client.get("qwenservice", SERVICE).get("status", {})
        condition = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), None)
        line = (
            f"{condition['reason']}: {condition.get('message', '')}"
            if condition
            else "the operator has not processed it yet"
        )
        if line != told:
            say(f"  {SERVICE} after {duration(time.monotonic() - begun)}: {line}")
            told = line
        return condition is not None and condition["status"] == "True"

    with step(f"wait until {SERVICE} is Ready"):
        if not wait_until(ready, READY_SECONDS, interval=1.0):
            details = _or_nothing(client, "get", "pods,events", "-o", "wide")
            logs = _or_nothing(client, "logs", "-l", f"qwen-vllm.io/service={SERVICE}", "--tail=20")
            raise Problem(
                f"{SERVICE} is not Ready after {duration(READY_SECONDS)}: {told}",
                f"see: kubectl describe qwenservice {SERVICE}",
                f"{details}\n{logs}",
            )


def service_url(namespace: str) -> str:
    """The URL of the service for every pod in the cluster."""
    return f"http://{SERVICE}.{namespace}.svc:8000"


def ask(client: Client, namespace: str = "default") -> list[dict[str, Any]]:
    """Send the requests from a pod through the Service. Returns the JSON answers."""
    there = ("--namespace", namespace)
    client.kubectl("delete", "pod", ASKING_POD, *there, "--ignore-not-found", "--grace-period=0")
    with NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asking_pod(client.cluster.reference(images.OPERATOR), service_url(namespace)), file)
        file.flush()
        client.kubectl("apply", "-f", file.name, *there)

    def phase() -> str:
        found: str = client.get("pod", ASKING_POD, *there)["status"].get("phase", "")
        return found

    wait_until(lambda: phase() in {"Succeeded", "Failed"}, 120, interval=0.5)
    ended, logs = phase(), _or_nothing(client, "logs", ASKING_POD, *there)
    client.kubectl("delete", "pod", ASKING_POD, *there, "--grace-period=0")
    if ended != "Succeeded":
        raise Problem(f"the requests to {service_url(namespace)} failed ({ended})", "see: kubectl get pods,qs", logs)
    return [json.loads(line) for line in logs.splitlines()]


def asking_pod(image: str, url: str) -> dict[str, Any]:
    """A pod that sends the requests and ends; it meets the restricted Pod Security Standard."""
    env = {"URL": url, "REQUESTS": json.dumps(REQUESTS), "PYTHONIOENCODING": "utf-8"}
    container = {
        "name": "ask",
        "image": image,
        "command": ["python", "-c", ASK],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": ASKING_POD},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }


def shown(url: str, body: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """A request and the model's answer as text."""
    choice = answer["choices"][0]
    asked = body["messages"][0]["content"] if "messages" in body else body["prompt"]
    tokens = answer["usage"]["total_tokens"]
    return f"POST {url}\n  {asked!r}\n  -> {said(choice)}   ({answer['model']}, {tokens} tokens)\n"


def said(choice: Mapping[str, Any]) -> str:
    """The text of a choice of a chat or a completion."""
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


def next_steps(cluster: Cluster) -> str:
    """Suggestions for the next commands."""
    setup = "  . .cluster/env                     # this cluster's kubeconfig, kubectl and helm for your shell\n"
    chat = '{"messages":[{"role":"user","content":"请分类这条新闻：中国女篮夺得亚洲杯冠军"}]}'
    return f"""The cluster is up and the model is serving. Try next:
{setup if cluster.kubeconfig is not None else ""}\
  kubectl get qs                      # the service; `kubectl describe qs {SERVICE}` shows more
  kubectl logs -l qwen-vllm.io/service={SERVICE} -f
  kubectl port-forward svc/{SERVICE} 8000 &
  curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{chat}'
  kubectl delete qs {SERVICE}
  {cluster.stop_hint:<35} # stop everything"""


def _or_nothing(client: Client, *arguments: str) -> str:
    try:
        return client.kubectl(*arguments)
    except Problem:
        return ""
