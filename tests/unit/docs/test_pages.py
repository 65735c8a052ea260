"""The pages as a whole: the index has all of them, and what they compare or name is complete."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from qwen_operator.planning.builders.deployment import _POD_SECTIONS

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
INDEX = (DOCS / "README.md").read_text(encoding="utf-8")
PROJECTS = ("KServe", "KubeAI", "KAITO", "production-stack", "NIM Operator", "llm-d", "Dynamo")
# The pages by task, which name metrics that another page explains.
GUIDES = ("autoscaling", "capacity", "debug", "models", "secure", "upgrade")


def text_of(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_page_is_in_the_index() -> None:
    pages = [page.name for page in sorted(DOCS.glob("*.md")) if page.name != "README.md"]
    assert len(pages) > 20
    assert [page for page in pages if not re.search(rf"\]\({re.escape(page)}(?:#[^)]*)?\)", INDEX)] == []


def test_every_project_is_compared_in_both_directions() -> None:
    page = text_of("comparison")
    table = page.partition("## One by one\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| [")]
    assert [name for name in PROJECTS if not any(f"[{name}]" in cells[0] for cells in rows)] == []
    assert len(rows) == len(PROJECTS)
    for _, what, theirs, ours in rows:
        assert what.strip()
        assert theirs.strip()
        assert ours.strip()
    # The page owes the reader what is missing here as much as what is better here.
    lacks = page.partition("## What this project lacks\n")[2].partition("\n## ")[0]
    has = page.partition("## What this project has that they lack\n")[2].partition("\n## ")[0]
    assert lacks.count("\n- ") >= has.count("\n- ") > 4


@pytest.mark.parametrize("name", GUIDES)
def test_every_metric_of_a_guide_is_explained_in_operations(name: str) -> None:
    metrics = set(re.findall(r"\bqwen_[a-z_]+[a-z]\b", text_of(name)))
    explained = text_of("operations")
    assert [metric for metric in sorted(metrics) if f"`{metric}" not in explained] == []


@pytest.mark.parametrize("name", GUIDES)
def test_every_reason_of_a_guide_is_explained_in_operations(name: str) -> None:
    """Such as `UpdatePending`, and every other word in code that has two capitals."""
    words = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-zA-Z]+)+)`", text_of(name)))
    known = text_of("operations") + (DOCS / "runbooks" / "README.md").read_text(encoding="utf-8")
    assert [word for word in sorted(words) if word not in known] == []


def test_the_runbooks_name_every_section_that_replaces_pods() -> None:
    cost = (DOCS / "runbooks" / "README.md").read_text(encoding="utf-8").partition("## What a change costs\n")[2]
    named = re.findall(r"`([\w.]+)`", cost.partition(" replace the pods")[0])
    sections = [re.sub(r"_(\w)", lambda match: match[1].upper(), section) for section in _POD_SECTIONS]
    assert named == [*sorted(sections), "rollout.startupTimeout"]


def test_examples_in_python_and_toml_can_be_read() -> None:
    pages = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
    python = [block for page in pages for block in blocks(page, "python")]
    toml = [block for page in pages for block in blocks(page, "toml")]
    assert python
    assert toml
    for block in python:
        ast.parse(block)
    for block in toml:
        tomllib.loads(block)
