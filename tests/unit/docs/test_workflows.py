"""The workflows under .github name only what exists, and pin what they take from others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yaml"))
SCRIPTS = sorted((GITHUB / "scripts").glob("*.sh"))
PINNED = re.compile(r"^ *(?:- )?uses: ([\w.-]+/[\w.-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$")


def name_of(path: Path) -> str:
    return path.name


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(text_of(path))["jobs"]
    return loaded


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(path).values():
        yield from job["steps"]


def commands() -> str:
    """Every shell line of the workflows and their scripts."""
    runs = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    return "\n".join([*runs, *(text_of(path) for path in SCRIPTS)])


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))


def test_there_are_two_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yaml", "release.yaml"]


def test_every_action_is_pinned_by_commit_and_names_its_version() -> None:
    lines = [line for path in WORKFLOWS for line in text_of(path).splitlines() if "uses:" in line]
    assert len(lines) > 15
    assert [line for line in lines if not PINNED.match(line)] == []
    pins = {match.groups() for line in lines if (match := PINNED.match(line))}
    names = [name for name, _, _ in pins]
    assert sorted(names) == sorted(set(names)), "an action is pinned in two versions"


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_a_workflow_may_only_read_unless_a_job_says_more(path: Path) -> None:
    assert yaml.safe_load(text_of(path))["permissions"] == {"contents": "read"}
    for job in jobs(path).values():
        assert job["timeout-minutes"] > 0
        assert job["permissions"] if path.name == "release.yaml" and "needs" in job else "permissions" not in job
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_nothing_that_others_write_becomes_part_of_a_command() -> None:
    """An expression inside a script is text that the shell reads, such as a branch's name."""
    runs = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    found = {expression for run in runs for expression in re.findall(r"\$\{\{\s*(.*?)\s*\}\}", run)}
    assert found <= {"matrix.target"}


def test_every_target_of_make_exists() -> None:
    named = set(re.findall(r"\bmake (?:-C \S+ )?([a-z][a-z0-9-]*)\b", commands()))
    for job in jobs(GITHUB / "workflows" / "ci.yaml").values():
        named.update(job.get("strategy", {}).get("matrix", {}).get("target", []))
    assert {"lint", "test-unit", "test-integration", "demo"} <= named
    assert named <= targets()


def test_every_command_of_this_repository_exists() -> None:
    named = set(re.findall(r"python3 -m tests\.cluster ([a-z-]+)", commands()))
    assert {"release-notes", "release-values"} <= named
    assert named <= COMMANDS.keys()
    for script in re.findall(r"^\.github/\S+", commands(), re.MULTILINE):
        assert (ROOT / script).stat().st_mode & 0o111


def test_three_versions_of_kubernetes_are_pinned_by_digest() -> None:
    matrix = jobs(GITHUB / "workflows" / "ci.yaml")["kind"]["strategy"]["matrix"]["include"]
    assert len({row["kubernetes"] for row in matrix}) == 3
    for row in matrix:
        assert row["node"].startswith(f"kindest/node:v{row['kubernetes']}.")
    images = re.findall(r"kindest/node:\S+", "\n".join(text_of(path) for path in WORKFLOWS))
    assert all(re.fullmatch(r"kindest/node:v\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", image) for image in images)


def test_every_image_of_a_release_has_its_dockerfile_and_target() -> None:
    matrix = jobs(GITHUB / "workflows" / "release.yaml")["images"]["strategy"]["matrix"]["include"]
    assert [row["name"] + row["suffix"] for row in matrix] == ["qwen-operator", "qwen-server-cpu", "qwen-server-cuda"]
    for row in matrix:
        assert re.search(rf"^FROM \S+ AS {row['target']}$", text_of(ROOT / row["file"]), re.MULTILINE), row


def test_the_bot_looks_into_folders_that_exist() -> None:
    for update in yaml.safe_load(text_of(GITHUB / "dependabot.yml"))["updates"]:
        for folder in update.get("directories", [update.get("directory")]):
            assert (ROOT / folder.lstrip("/")).is_dir(), folder


def test_forms_and_owners_can_be_read() -> None:
    for form in ("bug.yml", "feature.yml"):
        loaded = yaml.safe_load(text_of(GITHUB / "ISSUE_TEMPLATE" / form))
        assert {"name", "description", "body"} <= loaded.keys()
        identifiers = [field["id"] for field in loaded["body"]]
        assert sorted(identifiers) == sorted(set(identifiers))
    assert "url" in yaml.safe_load(text_of(GITHUB / "ISSUE_TEMPLATE" / "config.yml"))["contact_links"][0]
    assert re.search(r"^\* @[\w-]+/[\w-]+$", text_of(GITHUB / "CODEOWNERS"), re.MULTILINE)


def test_links_of_the_forms_lead_to_pages_of_this_repository() -> None:
    text = text_of(GITHUB / "ISSUE_TEMPLATE" / "config.yml")
    pages = re.findall(r"/blob/main/(\S+)$", text, re.MULTILINE)
    assert pages
    assert [page for page in pages if not (ROOT / page).is_file()] == []
