"""Releases of the chart on the local cluster: others than the one that all tests share."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.clusters import Local
from tests.cluster.console import Problem
from tests.cluster.demo import Client, image_settings
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import output, succeeds

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
# Runs in the checkout of another version.
BUILD_OPERATOR = """
from tests.cluster import images
from tests.cluster.settings import Settings
settings = Settings.from_env()
images.ensure_base(settings)
images.ensure_pushed(settings, images.OPERATOR)
print(images.OPERATOR.reference())
"""


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


@dataclass(frozen=True)
class Older:
    """An older release, from which a test upgrades.

    `origin` says what it is, and `sources` is the folder of its checkout. Both are those of a
    stand-in if no older version exists: a copy of today's chart with older numbers.
    """

    origin: str
    chart: Path
    sources: Path | None

    def options(self, cluster: Settings) -> list[str]:
        """The options of helm for its own operator, which its own code builds. Raises Problem."""
        if self.sources is None:
            return []
        command = [sys.executable, "-c", BUILD_OPERATOR]
        env = {**os.environ, "PYTHONPATH": str(self.sources)}
        reference = output(command, env=env, timeout=600, cwd=self.sources).splitlines()[-1]
        repository, _, tag = reference.rpartition(":")
        return ["--set", f"image.repository={repository}", "--set", f"image.tag={tag}"]


def older_release(folder: Path) -> Older:
    """The release before today's version; its CRD is not newer. Writes into `folder`."""
    current = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"]
    revision = older_revision(ROOT, current)
    if revision is not None:
        archive, sources = folder / "sources.tar", folder / "sources"
        sources.mkdir()
        output(["git", "-C", ROOT, "archive", "--output", archive, revision])
        output(["tar", "--extract", "--file", archive, "--directory", sources])
        return Older(revision, sources / CHART.relative_to(ROOT), sources)
    chart = folder / NAME
    shutil.copytree(CHART, chart)
    renumber(chart / "Chart.yaml", rf'^((?:appV|v)ersion: "?){re.escape(current)}', rf"\g<1>{OLDER}")
    renumber(chart / "files" / "crd.yaml", rf"({VERSION}: ')\d+", r"\g<1>900000")
    return Older(f"today's chart with the number {OLDER}, because there is no older version", chart, None)


def older_revision(root: Path, current: str) -> str | None:
    """What a checkout has of an older version: its newest tag, or else the commit before `current`.

    That is the one before the version became `current`. None if the chart had no other version.
    """
    git: list[str | Path] = ["git", "-C", root]
    tags = output([*git, "tag", "--list", "v*", "--sort=-version:refname"]).split()
    earlier = [tag for tag in tags if tag != f"v{current}"]
    if earlier:
        return earlier[0]
    file = f"charts/{NAME}/Chart.yaml"
    changed = output([*git, "log", "-1", "--format=%H", "-G", "^version:", "--", file]).strip()
    before = f"{changed}^"
    return before if changed and succeeds([*git, "cat-file", "-e", f"{before}:{file}"]) else None


def renumber(file: Path, pattern: str, replacement: str) -> None:
    """Replaces all matches in a file. There must be one."""
    changed, count = re.subn(pattern, replacement, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count > 0, f"{file} does not match {pattern}"
    file.write_text(changed, encoding="utf-8")


def chart_of(deployment: dict[str, Any]) -> str:
    """The chart that wrote the operator's Deployment, such as qwen-operator-1.0.0."""
    label: str = deployment["metadata"]["labels"]["helm.sh/chart"]
    return label
