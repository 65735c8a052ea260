"""Releases of the chart on the local cluster: others than the one that all tests share."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.clusters import Local
from tests.cluster.console import Problem
from tests.cluster.demo import Client, image_settings
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import output

NAME, NAMESPACE = "qwen-operator", "qwen-system"
CHART = ROOT / "charts" / NAME
CRD = "qwenservices.qwen-vllm.io"
VERSION = "qwen-vllm.io/definition-version"
OURS = f"app.kubernetes.io/name={NAME}"
NAMESPACED = "deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,configmaps"
CLUSTER_WIDE = (
    "clusterroles,clusterrolebindings,priorityclasses,validatingadmissionpolicies,validatingadmissionpolicybindings"
)
OLDER = "0.9.0"


def helm_client(cluster: Settings, program: str) -> Client:
    """A client with the helm of this path below the folder of programs."""
    local = Local(cluster)
    local.helm = str(cluster.bin / program)
    return Client(local)


def put(client: Client, action: str, chart: Path, *options: str, name: str = NAME, namespace: str = NAMESPACE) -> None:
    """`helm install` or `helm upgrade` with this checkout's images. Waits for the operator."""
    where = ("--namespace", namespace, *image_settings(client.cluster))
    client.helm(action, name, str(chart), *where, *options, "--wait", "--timeout=4m")


def uninstall(client: Client, name: str = NAME, namespace: str = NAMESPACE) -> None:
    """`helm uninstall`. Waits until the operator's pods are gone."""
    client.helm("uninstall", name, "--namespace", namespace, "--wait", "--timeout=2m")
    pods = ("--namespace", namespace, "-l", f"{OURS},app.kubernetes.io/component=operator")
    client.kubectl("wait", "--for=delete", "pod", *pods, "--timeout=90s", timeout=100)


def refusal(client: Client, *arguments: str) -> str:
    """What helm says as it refuses to run."""
    with pytest.raises(Problem) as caught:
        client.helm(*arguments)
    return " ".join(str(caught.value).split())


def advice(said: str) -> list[str]:
    """The flags that the message of a refused installation names."""
    [flags] = re.findall(r"run this command again with (.*?adopt=true[^.]*)\.", said)
    return str(flags).split()


def helm_test(client: Client, name: str = NAME, namespace: str = NAMESPACE) -> str:
    """The log of `helm test`."""
    return client.helm("test", name, "--namespace", namespace, "--logs", timeout=180)


def definition_version(client: Client) -> str:
    """The version of the CRD that the cluster has."""
    version: str = client.get("crd", CRD)["metadata"]["annotations"][VERSION]
    return version


def remove_everything(client: Client) -> None:
    """Removes all releases of the chart, what `kubectl apply` made of it, and all QwenServices."""
    listed = json.loads(client.helm("list", "--all-namespaces", "--output", "json"))
    for release in listed:
        if release["chart"].startswith(f"{NAME}-"):
            uninstall(client, release["name"], release["namespace"])
    client.kubectl("delete", NAMESPACED, "--namespace", NAMESPACE, "-l", OURS, "--ignore-not-found")
    client.kubectl("delete", CLUSTER_WIDE, "-l", OURS, "--ignore-not-found")
    client.kubectl("delete", "crd", CRD, "--ignore-not-found", "--timeout=90s", timeout=100)


def older_chart(folder: Path) -> Path:
    """The chart of the last release, whose CRD is older.

    Before there is a second release, it is today's chart with older numbers.
    """
    current = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"]
    tags = output(["git", "-C", ROOT, "tag", "--list", "v*", "--sort=-version:refname"]).split()
    earlier = [tag for tag in tags if tag != f"v{current}"]
    if earlier:
        archive = folder / "chart.tar"
        there = str(CHART.relative_to(ROOT))
        output(["git", "-C", ROOT, "archive", "--output", archive, earlier[0], there])
        output(["tar", "--extract", "--file", archive, "--directory", folder])
        return folder / there
    chart = folder / NAME
    shutil.copytree(CHART, chart)
    renumber(chart / "Chart.yaml", rf'^((?:appV|v)ersion: "?){re.escape(current)}', rf"\g<1>{OLDER}")
    renumber(chart / "files" / "crd.yaml", rf"({VERSION}: ')\d+", r"\g<1>900000")
    return chart


def renumber(file: Path, pattern: str, replacement: str) -> None:
    """Replaces all matches in a file. There must be one."""
    changed, count = re.subn(pattern, replacement, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count > 0, f"{file} does not match {pattern}"
    file.write_text(changed, encoding="utf-8")


def chart_of(deployment: dict[str, Any]) -> str:
    """The chart that wrote the operator's Deployment, such as qwen-operator-1.0.0."""
    label: str = deployment["metadata"]["labels"]["helm.sh/chart"]
    return label
