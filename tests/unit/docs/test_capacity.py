"""The worked example of docs/capacity.md: its figures are measured, and its sums are right."""

from __future__ import annotations

import math
import re
from pathlib import Path

from model_sizes import GPUS, MIB, models

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \| ([\d.]+) \|$", re.MULTILINE)
LOAD = 150


def figures() -> dict[tuple[str, str], str]:
    """The figures of the page, by their row and unit."""
    return {(row, unit): figure for row, unit, figure in ROW.findall(PAGE)}


def measured(row: str, unit: str) -> str:
    """The figure of this server in a row of the benchmarks, without its spread."""
    (line,) = [line for line in BENCHMARKS.splitlines() if line.startswith(f"| {row} | {unit} | ")]
    return line.split("|")[3].split()[0]


def test_every_figure_of_the_page_is_in_the_benchmarks() -> None:
    found = figures()
    assert len(found) == 4
    assert found == {key: measured(*key) for key in found}


def test_the_replicas_follow_from_the_figures() -> None:
    capacity = float(measured("limits auto: saturated capacity", "requests/s"))
    planned = 0.7 * capacity
    replicas = math.ceil(LOAD / planned)
    assert f"{LOAD} need {replicas} replicas. With one more there are {replicas + 1}." in words(PAGE)
    # Rounded down: the page promises no more than the rule.
    assert f"70 % of that are {math.floor(planned * 10) / 10:.1f}, so" in words(PAGE)
    share = LOAD / replicas
    assert f"gets {share:.1f} requests per second, which is {share / capacity:.0%}".replace("%", " %") in words(PAGE)
    default = float(measured("our defaults (3 run, 10 wait): saturated capacity", "requests/s"))
    assert f"the same load needs {math.ceil(LOAD / (0.7 * default))} replicas" in words(PAGE)
    assert f"replicas: {replicas + 1}\n" in PAGE


def test_sentences_that_repeat_a_figure_have_the_same_one() -> None:
    for (_, unit), figure in figures().items():
        # Once in the table, and once or more in the text.
        assert PAGE.count(figure) > 1, (unit, figure)


def test_the_kv_cache_of_the_second_example_fits_where_the_page_says() -> None:
    (model,) = [found for found in models() if found.name == "Qwen/Qwen3-8B"]
    needed = 5 * 12 * (2000 + 500)
    assert f"60 of them need room for {needed:,} tokens" in words(PAGE)
    memory = GPUS["48 GB (L40S)"] * MIB
    assert model.fewest_gpus(memory) == 1
    assert model.kv_tokens(1, memory) >= needed


def words(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())
