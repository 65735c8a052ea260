"""The notes of a release, and the images of its chart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import release
from tests.cluster.console import Problem

CHANGELOG = """\
# Changelog

## 1.1.0 (unreleased)

- Add a thing.

## 1.0.1 (2026-12-02)

- Correct a thing:
  it was wrong.

## 1.0.0 (2026-12-01)
"""


def test_the_notes_are_the_changelogs_section() -> None:
    assert release.notes(CHANGELOG, "1.0.1") == "- Correct a thing:\n  it was wrong.\n"


@pytest.mark.parametrize(
    ("version", "problem"),
    [("1.1.0", "unreleased"), ("1.0.0", "says nothing"), ("1.0", "no section"), ("2.0.0", "no section")],
)
def test_a_version_without_notes_is_not_released(version: str, problem: str) -> None:
    with pytest.raises(Problem, match=problem):
        release.notes(CHANGELOG, version)


def test_a_tag_that_is_not_the_charts_version_is_refused() -> None:
    chart = (release.CHART / "Chart.yaml").read_text(encoding="utf-8")
    (version,) = [line.removeprefix("version: ") for line in chart.splitlines() if line.startswith("version: ")]
    release.require_version(chart, version)
    with pytest.raises(Problem, match=r"the tag says 99\.0\.0"):
        release.require_version(chart, "99.0.0")


def test_every_image_of_the_values_gets_the_registry(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    before = (release.CHART / "values.yaml").read_text(encoding="utf-8")
    values.write_text(before, encoding="utf-8")
    release.set_registry("ghcr.io/someone", values)
    changed = [
        line
        for line, old in zip(values.read_text(encoding="utf-8").splitlines(), before.splitlines(), strict=True)
        if line != old
    ]
    names = [line.strip().partition(": ")[2] for line in changed]
    assert [name.partition(":")[0] for name in names] == [
        "ghcr.io/someone/qwen-operator",
        "ghcr.io/someone/qwen-server",
        "ghcr.io/someone/qwen-server",
    ]


def test_values_without_one_of_the_images_are_refused() -> None:
    with pytest.raises(Problem, match=r"values\.yaml has 0 lines"):
        release.with_registry("image:\n  repository: qwen-operator\n", "ghcr.io/someone")
