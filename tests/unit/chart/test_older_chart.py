"""The release from which the end-to-end tests upgrade: which one it is, and that it renders."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from charts import generate

from tests.e2e.releases import VERSION, older_release, older_revision

from .conftest import CHART, template

FILE = Path("charts", "qwen-operator", "Chart.yaml")


def rendered(chart: Path) -> dict[str, Any]:
    """The objects of a chart by kind."""
    result = template(chart=chart)
    assert result.returncode == 0, result.stderr
    return {manifest["kind"]: manifest for manifest in generate.documents(result.stdout)}


def test_the_older_chart_has_an_older_definition(tmp_path: Path) -> None:
    older, current = (rendered(chart) for chart in (older_release(tmp_path).chart, CHART))
    versions = [
        int(found["CustomResourceDefinition"]["metadata"]["annotations"][VERSION]) for found in (older, current)
    ]
    assert versions[0] < versions[1]
    labels = [found["Deployment"]["metadata"]["labels"]["helm.sh/chart"] for found in (older, current)]
    assert labels[0] != labels[1]


class Checkout:
    """A repository with the history of a chart's version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ["git", "-C", str(self.folder), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, version: str, more: str) -> str:
        """Commits a chart of a version. Returns the commit."""
        file = self.folder / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"name: qwen-operator\nversion: {version}\nannotations: {more}\n")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", more)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_newest_tag_of_another_version_is_the_older_release(checkout: Checkout) -> None:
    for version in ("0.9.0", "0.10.0", "1.0.0"):
        checkout.commit(version, "released")
        checkout.git("tag", f"v{version}")
    checkout.git("tag", "checked")
    assert older_revision(checkout.folder, "1.0.0") == "v0.10.0"
    assert older_revision(checkout.folder, "1.1.0") == "v1.0.0"


def test_without_a_tag_it_is_the_last_commit_of_the_version_before(checkout: Checkout) -> None:
    checkout.commit("0.9.0", "first")
    last = checkout.commit("0.9.0", "second")
    checkout.commit("1.0.0", "third")
    checkout.commit("1.0.0", "fourth")
    revision = older_revision(checkout.folder, "1.0.0")
    assert revision is not None
    assert checkout.git("rev-parse", revision) == last


def test_a_chart_that_had_one_version_only_has_no_older_release(checkout: Checkout) -> None:
    (checkout.folder / "README.md").write_text("before the chart")
    checkout.git("add", ".")
    checkout.git("commit", "--quiet", "--message", "before")
    checkout.commit("1.0.0", "first")
    checkout.commit("1.0.0", "second")
    assert older_revision(checkout.folder, "1.0.0") is None
