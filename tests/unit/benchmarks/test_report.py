"""Tables, targets, and results kept in files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.results import Part, Row, Target
from benchmarks.servers import Which, order

MACHINE = {"cores": 2, "memory_gib": 24.0, "cpu": "CPU", "gpu": None, "versions": {"vllm": "1.2"}}
CONDITIONS = {
    "command": "python -m benchmarks",
    "date": "2026-01-31",
    "machine": MACHINE,
    "load": 0.25,
    "runs": 3,
    "quick": False,
}


def _part(*rows: Row) -> Part:
    return Part("speed", 90.0, list(rows), ["a note"], CONDITIONS)


def test_a_row_shows_medians_spreads_and_whether_the_target_is_met() -> None:
    row = Row("rate", "1/s", [10.0, 12.0, 11.0], [10.0, 10.0, 10.0], Target("ratio", ">=", 1.1))
    assert "| rate | 1/s | 11.0 (10.0-12.0) | 10.0 | 1.10 (1.00-1.20) | ratio ≥ 1.1 | met |" in report.render(
        [_part(row)]
    )


def test_a_part_without_patches_has_a_column_for_it() -> None:
    rows = Row("cost", "µs", [4.0], [8.0], unpatched=[6.0]), Row("other", "s", [1.0], [2.0])
    text = report.render([_part(*rows)])
    assert "| | unit | this server | patches off | vLLM's server | ratio | target | |\n" in text
    assert "| cost | µs | 4.00 | 6.00 | 8.00 | 0.500 |  |  |" in text
    assert "| other | s | 1.00 |  | 2.00 | 0.500 |  |  |" in text
    assert "patches off" not in report.render([_part(rows[1])])


def test_a_missed_target_is_shown() -> None:
    late = Row("late", "s", [2.5], target=Target("value", "<=", 2))
    assert "| late | s | 2.50 |  |  | ≤ 2 | **missed** |" in report.render([_part(late)])
    assert Row("x", "s", [1.0], [0.0], Target("ratio", "<=", 1)).reached() is False
    assert Row("x", "s", [math.nan], target=Target("value", "<=", 1)).reached() is False
    assert Row("x", "s", [1.0]).reached() is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (math.nan, "-"), (0.01234, "0.0123"), (9.876, "9.88"), (123.4, "123"), (45678.9, "45,679")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_conditions_name_command_machine_and_versions() -> None:
    text = report.render([_part()])
    assert "`python -m benchmarks`, 3 runs, 1.5 min, 2026-01-31; 2 cores (CPU), 24 GiB" in text
    assert "vllm 1.2" in text
    assert "- a note\n" in text


def test_tables_replace_what_stands_between_the_markers_of_their_device() -> None:
    cpu, gpu = (f"{report.begin(device)}\nold\n{report.END}\n" for device in ("cpu", "cuda"))
    once = report.insert(f"before\n{cpu}between\n{gpu}after\n", "new\n", "cuda")
    assert once == f"before\n{cpu}between\n{report.begin('cuda')}\n\nnew\n{report.END}\nafter\n"
    assert report.insert(once, "new\n", "cuda") == once
    with pytest.raises(ValueError, match="figures: cuda"):
        report.insert(cpu, "new", "cuda")


def test_a_part_comes_back_from_its_file(tmp_path: Path) -> None:
    part = _part(Row("a", "s", [1.0], [2.0], Target("ratio", "<=", 0.75)), Row("b", "s", [1.0]))
    part.save(tmp_path)
    assert results.load(tmp_path, "speed") == part
    assert results.load(tmp_path, "other") is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_page_of_the_repository_takes_tables(device: str) -> None:
    page = Path(report.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert "new tables" in report.insert(page, "new tables\n", device)


def test_the_rust_frontend_gets_columns_of_its_own() -> None:
    goal = Target("ratio", "<=", 2)
    found: dict[Which, list[float]] = {"ours": [4.0], "vllm": [8.0], "rust": [1.0]}
    rows = Row.of("cost", "µs", found, Target("ratio", "<=", 0.6), goal), Row("other", "s", [1.0], rust_target=goal)
    text = report.render([_part(*rows)])
    assert "| this server | vLLM's server | ratio | target | | Rust frontend | ratio | target | |\n" in text
    assert "| cost | µs | 4.00 | 8.00 | 0.500 | ratio ≤ 0.6 | met | 1.00 | 4.00 | ratio ≤ 2 | **missed** |" in text
    assert "| other | s | 1.00 |  |  |  |  |  |  |  |  |" in text
    assert rows[0].rust_reached() is False
    assert rows[1].rust_reached() is None


def test_a_part_with_the_rust_frontend_comes_back_from_its_file(tmp_path: Path) -> None:
    row = Row("a", "s", [1.0], [2.0], rust=[0.5], rust_target=Target("ratio", "<=", 1))
    part = _part(row)
    part.save(tmp_path)
    assert results.load(tmp_path, "speed") == part


def test_each_server_goes_first_and_last_in_turn() -> None:
    names: tuple[Which, ...] = ("ours", "vllm", "rust")
    turns = [order(run, names) for run in range(3)]
    assert {turn[0] for turn in turns} == {turn[-1] for turn in turns} == set(names)
    assert order(1, names[:2]) == ("vllm", "ours")
