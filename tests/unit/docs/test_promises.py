"""What the README promises: each promise names tests that exist, and each figure is measured."""

from __future__ import annotations

import re

import pytest

from .named_tests import ROOT, TEST, missing, rows

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
GPU, BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").split("\n## Figures\n")
PYTHON, RUST = 0, 1


@pytest.mark.parametrize("heading", ["What it promises", "What the programs do"])
def test_every_promise_names_tests_that_exist(heading: str) -> None:
    found = rows(PAGE, heading)
    assert len(found) > 10
    assert [row for row in found if not TEST.search(row)] == []
    assert [name for row in found for name in missing(row)] == []


def test_every_promise_of_the_readme_is_on_the_page() -> None:
    """By the words that carry it, so that a new promise is not forgotten."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What it promises\n")[2].partition("\n## ")[0]
    bold = re.findall(r"^- \*\*(.+?)\*\*", section, re.MULTILINE | re.DOTALL)
    assert len(bold) == 7
    for name in re.findall(r"`(\w+)`", section):
        if name not in {"True", "auto"}:
            assert f"`{name}`" in PAGE, name


def ratio(heading: str, row: str, against: int, page: str = BENCHMARKS) -> float:
    """How this server compares with one of vLLM's in a row of the benchmarks' tables."""
    section = page.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    columns = [number for number, title in enumerate(lines[0]) if title == "ratio"]
    (cells,) = [cells for cells in lines if " | ".join(cells[:2]) == row]
    return float(cells[columns[against]].split()[0])


def compared() -> tuple[int, int]:
    """How many answers were compared with vLLM's server in Python, and how many were the same."""
    numbers = {
        what: [round(float(figure)) for figure in re.findall(rf"path: {what} \| requests \| ([\d.,]+) ", BENCHMARKS)]
        for what in ("requests compared", "answers that differ")
    }
    total = sum(numbers["requests compared"])
    return total, total - sum(numbers["answers that differ"])


def figures() -> list[str]:
    """The figures of the README's promises, as the benchmarks have them."""
    total, same = compared()
    return [
        f"{ratio('Throughput', 'streamed, 64 at a time | tokens/s', PYTHON):.2f}",
        f"{ratio('Throughput', 'streamed, 64 at a time | TTFT p50, ms', PYTHON):.2f}",
        f"{ratio('Frontend', 'CPU a token, streamed, 64 at a time | µs', PYTHON):.2f}",
        f"{ratio('Startup', 'process start to first answered request | s', PYTHON):.2f}",
        f"{same}",
        f"{total}",
        f"{ratio('Frontend', 'CPU a token, streamed, 64 at a time | µs', RUST):.1f}",
        f"{ratio('Throughput', 'streamed, 64 at a time | requests/s', RUST):.2f}",
        f"{ratio('Overload', 'limits auto: goodput | requests/s', RUST):.0f}",
        f"{ratio('Startup', 'process start to first answered request | s', RUST):.2f}",
    ]


@pytest.mark.parametrize(
    ("page", "first", "second"),
    [
        (
            "README.md",
            "delivers {} times the tokens per second, with {} times the time to the first token "
            "and {} times the frontend CPU per token. It is ready in {} times the time. It gave the same "
            "answers to {} of {} requests",
            "takes {} times its CPU per token.|still answers {} times as many requests per second.|"
            "it answers {} times as many in time|It is ready in {} times the time.",
        ),
        (
            "README.zh-CN.md",
            "为其 {} 倍， 首 token 延迟为其 {} 倍，前端每 token 的 CPU 开销为其 {} 倍，从启动到可以应答的时间为其 {} "
            "倍|{1} 个请求中 {0} 个",
            "CPU 开销是它的 {} 倍|请求数仍为它的 {} 倍|请求数为它的 {} 倍|启动时间为它的 {} 倍",
        ),
    ],
)
def test_every_figure_of_the_readme_is_measured(page: str, first: str, second: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    found = iter(figures())
    for sentence in [*first.split("|"), *second.split("|")]:
        count = len(re.findall(r"\{\d?\}", sentence))
        wanted = sentence.format(*[next(found) for _ in range(count)])
        assert without_blanks(wanted) in without_blanks(text), wanted


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (
            "README.md",
            "streams {} times the tokens of vLLM's server per second at 64 at a time, with {} times the CPU per token "
            "and {} times the time to the first token. It answers {} times as many requests that are not streamed. "
            "Beside vLLM's Rust frontend, it streams {} times the tokens",
        ),
        (
            "README.zh-CN.md",
            "吞吐量（token/s）为 vLLM 自带服务器的 {} 倍，前端每 token 的 CPU 开销为 {} 倍，首 token 延迟为 {} 倍；"
            "非流式请求的完成数为 {} 倍。与 vLLM 的 Rust 前端相比，流式吞吐量为 {} 倍",
        ),
    ],
)
def test_every_figure_of_a_gpu_is_measured(page: str, sentence: str) -> None:
    streamed, whole = "streamed, 64 at a time", "not streamed, 64 at a time"
    found = (
        f"{ratio('Throughput', f'{streamed} | tokens/s', PYTHON, GPU):.2f}",
        f"{ratio('Frontend', f'CPU a token, {streamed} | µs', PYTHON, GPU):.2f}",
        f"{ratio('Throughput', f'{streamed} | TTFT p50, ms', PYTHON, GPU):.2f}",
        f"{ratio('Throughput', f'{whole} | requests/s', PYTHON, GPU):.2f}",
        f"{ratio('Throughput', f'{streamed} | tokens/s', RUST, GPU):.2f}",
    )
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert without_blanks(sentence.format(*found)) in without_blanks(text)


def without_blanks(text: str) -> str:
    """Chinese lines break anywhere, also where no blank belongs."""
    return text.replace(" ", "")
