"""Documentation that can be checked: examples, and tables that must name everything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from qwen_operator.remediation.act import _FINISHED, _MADE
from qwen_operator.remediation.engines import RESTARTED
from qwen_operator.remediation.outlook import POSTPONED
from qwen_operator.remediation.restarts import DEAD
from qwen_operator.remediation.silence import UNREADABLE
from qwen_operator.status.diagnosis import FAILURES, TRANSIENT

from .conftest import ROOT
from .test_crd_and_notes import objections
from .test_monitoring import operator_metrics, server_metrics

PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "charts").rglob("*.md")],
    key=str,
)
OPERATOR = ROOT / "operator" / "src" / "qwen_operator"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def operations() -> str:
    return (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_can_be_read(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "yaml"):
        for document in yaml.safe_load_all(block):
            if isinstance(document, dict) and document.get("kind") == "QwenService":
                assert objections(document) == []


def test_every_reason_of_a_condition_is_explained() -> None:
    modules = [module for room in ("planning", "status", "remediation") for module in (OPERATOR / room).rglob("*.py")]
    source = "".join(module.read_text(encoding="utf-8") for module in modules)
    judged = set(re.findall(r'Verdict\(\s*"\w+",\s*(?:True|False),\s*"(\w+)"', source))
    warned = set(re.findall(r'(?:PlanWarning|Suspension)\(\s*"(\w+)"', source))
    assert {"Serving", "RolloutStalled"} <= judged
    assert {"CacheNotShared", "BudgetExhausted"} <= warned
    applied = set(re.findall(r'ApplyError\(\s*"(\w+)"', (OPERATOR / "children.py").read_text(encoding="utf-8")))
    assert "NameTaken" in applied
    missing = [
        reason for reason in judged | warned | applied | {*FAILURES, *TRANSIENT} if f"`{reason}`" not in operations()
    ]
    assert missing == []


def test_every_metric_is_explained() -> None:
    text = operations()
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in server_metrics() | operator_metrics()}
    ours = {name for name in known if name.startswith("qwen_")}
    missing = {name for name in ours if name not in text and not name.endswith("_limit")}
    assert missing == set()


def events_table() -> set[str]:
    """The Events that the operations guide explains."""
    [table] = re.findall(r"^\| Event \|.*?\n\n", operations(), re.MULTILINE | re.DOTALL)
    return {name for row in table.strip().splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def events_of_the_operator() -> set[str]:
    """The reasons of its Events, without those of conditions and the names of alerts."""
    act = (OPERATOR / "remediation" / "act.py").read_text(encoding="utf-8")
    children = (OPERATOR / "children.py").read_text(encoding="utf-8")
    decisions = "".join(path.read_text(encoding="utf-8") for path in (OPERATOR / "remediation").glob("*.py"))
    named = set(re.findall(r'\breason="(\w+)"', act))
    chosen = set(_MADE.values())
    refused = set(re.findall(r'\breason, message = "(\w+)"', act))
    budget = set(re.findall(r'recorder\.emit\(\s*self\._subject, "\w+", "(\w+)"', act))
    drift = set(re.findall(r'\bself\._report\(service, "(\w+)"', children))
    reported = set(re.findall(r'\bReport\([\w.]+, [\w.]+, "(\w+)"', decisions))
    assert all((named, chosen, refused, budget, drift, reported))
    finished = {f"Restart{outcome}" for outcome in _FINISHED}
    return named | chosen | refused | budget | drift | reported | finished | {DEAD, POSTPONED, UNREADABLE, RESTARTED}


def test_the_table_of_events_names_what_the_operator_writes_and_nothing_else() -> None:
    assert events_table() == events_of_the_operator()
