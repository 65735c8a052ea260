"""Each scenario of tests/scenarios happens as its table says, and a wrong table fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.qwen_operator.scenario_play import differences
from tests.unit.qwen_operator.scenario_tables import FOLDER, ScenarioError, files, parse, read

SICK = (FOLDER / "one-sick-of-three.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_a_scenario_happens_as_its_table_says(path: Path) -> None:
    found = differences(read(path))
    assert not found, "\n" + "\n".join(found)


def test_the_readme_lists_every_scenario() -> None:
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.name for path in files()]


def changed(old: str, new: str) -> list[str]:
    """The differences of the scenario of one unhealthy pod, with one place of its table changed."""
    assert SICK.count(old) == 1, old
    return differences(parse("changed.md", SICK.replace(old, new)))


def line_of(text: str, table: str = SICK) -> int:
    [number] = [number for number, line in enumerate(table.splitlines(), 1) if text in line]
    return number


def test_a_wrong_step_is_reported_with_file_row_and_difference() -> None:
    line = line_of("takes a out")
    assert changed("takes a out (EngineUnresponsive)", "takes b out (EngineUnresponsive)") == [
        f"changed.md, line {line} (0:12), what the operator does: the table has 'takes b out (EngineUnresponsive)', "
        "but it was 'takes a out (EngineUnresponsive)'"
    ]


def test_a_missing_step_is_reported() -> None:
    [found] = changed("takes a out (EngineUnresponsive)", "")
    assert found.endswith("the table has 'nothing', but it was 'takes a out (EngineUnresponsive)'")


def test_a_step_at_another_time_is_reported_at_both_times() -> None:
    missing, wrong = changed("| 0:12 |", "| 0:13 |")
    assert missing == "changed.md: there is no row for 0:12: takes a out (EngineUnresponsive)"
    assert "(0:13), what the operator does: the table has 'takes a out" in wrong


def test_a_step_too_many_is_reported() -> None:
    row = next(line for line in SICK.splitlines() if "takes a out" in line)
    assert changed(f"{row}\n", "") == ["changed.md: there is no row for 0:12: takes a out (EngineUnresponsive)"]


def test_a_wrong_fact_of_the_status_is_reported() -> None:
    line = line_of("restarts: 1 of 3")
    assert changed("restarts: 1 of 3", "restarts: 2 of 3") == [
        f"changed.md, line {line} (1:12), what the status says: the table has 'restarts: 2 of 3', "
        "but it was 'restarts: 1 of 3'"
    ]


def test_a_wrong_suspension_is_reported() -> None:
    [found] = changed("restarts: 1 of 3", "restarts: 1 of 3; suspended: BudgetExhausted")
    assert found.endswith("the table has 'suspended: BudgetExhausted', but it was 'nothing'")
    cut_off = (FOLDER / "cut-off.md").read_text(encoding="utf-8")
    [found] = differences(parse("changed.md", cut_off.replace("suspended: PodsUnreachable", "in rotation: b")))[-1:]
    assert "but it was 'suspended: PodsUnreachable'" in found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a: EngineUnresponsive |", "a: EngineTired |", r"\(0:10\): 'a: EngineTired': EngineTired is no answer"),
        ("a: EngineUnresponsive |", "d: EngineUnresponsive |", r"\(0:10\): .* there is no pod d"),
        ("a: EngineUnresponsive |", "a sneezes |", r"\(0:10\): 'a sneezes' cannot happen"),
        ("restarts: 1 of 3", "budget: 1", r"\(1:12\): the status does not say 'budget: 1'"),
        ("| 0:12 |", "| soon |", r"line \d+: 'soon' is not a time"),
        ("| 0:12 |", "| 0:10 |", r"line \d+: 0:10 is not after 0:10"),
        ("| 0:12 |", "| 0:12 | |", r"line \d+: it has 5 cells instead of 4"),
        ("what the operator does", "what it does", "no table with the columns time, what happens"),
        ("```yaml", "```text", "0 blocks of YAML instead of one"),
    ],
)
def test_a_table_that_cannot_be_read_is_reported_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=rf"^changed\.md.*{message}"):
        changed(old, new)
