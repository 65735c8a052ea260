"""Rendering the chart with the real helm, once for each set of values."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import generate

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "qwen-operator"
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """What helm made of the chart."""

    manifests: list[Manifest]

    def all(self, kind: str) -> list[Manifest]:
        """Every object of a kind."""
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Manifest:
        """The only object of a kind, or the one of that name."""
        found = [manifest for manifest in self.all(kind) if name in (None, manifest["metadata"]["name"])]
        assert len(found) == 1, f"{kind} {name or ''}: {[manifest['metadata']['name'] for manifest in found]}"
        return found[0]

    @property
    def container(self) -> Manifest:
        """The operator's container."""
        containers: list[Manifest] = self.one("Deployment")["spec"]["template"]["spec"]["containers"]
        assert len(containers) == 1
        return containers[0]


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs helm; a machine without it is an error that says how to get it."""
    return subprocess.run([generate.find_helm(), *arguments], capture_output=True, text=True, check=False)


def template(
    values: Manifest | None = None, *options: str, chart: Path = CHART, release: str = "qwen-operator"
) -> subprocess.CompletedProcess[str]:
    """`helm template` with values, given as YAML on its standard input."""
    arguments = ["template", release, str(chart), "--namespace", "qwen-system", *options]
    if "--kube-version" not in options:
        arguments += ["--kube-version", generate.KUBE_VERSION]
    text = yaml.safe_dump(values or {})
    return subprocess.run(
        [generate.find_helm(), *arguments, "--values", "-"], input=text, capture_output=True, text=True, check=False
    )


def render(values: Manifest | None = None, *options: str, release: str = "qwen-operator") -> Rendered:
    """The chart's objects for some values, which no test may change; fails with helm's message."""
    return _render_once(json.dumps(values or {}), options, release)


@cache
def _render_once(values: str, options: tuple[str, ...], release: str) -> Rendered:
    result = template(json.loads(values), *options, release=release)
    assert result.returncode == 0, result.stderr
    return Rendered(generate.documents(result.stdout))


@pytest.fixture(scope="session")
def default() -> Rendered:
    """The chart as it is installed without any value, the test hook included."""
    return render()


@pytest.fixture(scope="session")
def namespaced() -> Rendered:
    """An operator for two namespaces."""
    return render({"watchNamespaces": ["team-a", "team-b"]})


@pytest.fixture
def notes_chart(tmp_path: Path) -> Path:
    """A copy of the chart that renders NOTES.txt into a ConfigMap, because `helm template` leaves
    the notes out.
    """
    chart = tmp_path / "qwen-operator"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "notes.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  notes: |\n"
        '{{ include (print $.Template.BasePath "/NOTES.txt") . | indent 4 }}\n',
        encoding="utf-8",
    )
    return chart
