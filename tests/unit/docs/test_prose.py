"""What can be checked of the prose: links, line lengths, the glossary and the choice of words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = 100
GLOSSARY = ROOT / "docs" / "glossary.md"
TERMS = {
    "admission",
    "budget",
    "drain",
    "fast path and reference path",
    "in place",
    "inter-token latency",
    "latch",
    "level 1 readiness",
    "level 2 readiness",
    "readiness gate",
    "rollout",
    "saturation",
    "ttft",
    "zero work",
}
# Idioms of other languages, word for word. Each of them has a plain English equivalent.
TRANSLATED = re.compile(
    r"\bis told\b|\bmend(?:s|ed|ing)?\b|\bfor want of\b|\banew\b|\blast words\b|\btakes? nothing in\b"
    r"|\bnot waited for\b|\bthe way from\b|\bnothing else is left\b|\bis being loaded since\b",
    re.IGNORECASE,
)
HAN = re.compile(r"[\u4e00-\u9fff]")
PAIRS = (
    ("README.md", "README.zh-CN.md"),
    ("docs/api.md", "docs/api.zh-CN.md"),
    ("docs/quickstart.md", "docs/quickstart.zh-CN.md"),
)


class Line(NamedTuple):
    """A line of prose and its number."""

    number: int
    text: str


def files(*folders: str, suffix: str = "") -> list[Path]:
    """The files under the given folders, without those of packages and hidden folders."""
    found = [path for folder in folders for path in (ROOT / folder).rglob(f"*{suffix}") if path.is_file()]
    return sorted(
        path for path in found if not re.search(r"/(?:\.|__pycache__|node_modules)", str(path.relative_to(ROOT)))
    )


FOLDERS = (".github", "benchmarks", "charts", "docs", "manifests", "operator", "server", "tests")
PAGES = [*sorted(ROOT.glob("*.md")), *files(*FOLDERS, suffix=".md")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    """The text with its code blocks emptied, so that line numbers stay."""
    return re.sub(r"^( *)```.*?^\1```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)


def prose(page: Path) -> Iterator[Line]:
    """The lines of a page that are prose: no code, tables, generated figures or lone links."""
    text = re.sub(
        r"<!-- figures: [\w-]+ -->.*?<!-- end of figures -->",
        lambda block: "\n" * block[0].count("\n"),
        without_code(read(page)),
        flags=re.DOTALL,
    )
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("|", "    ")) or re.fullmatch(r"\s*(?:[-*] )?\[[^\]]*\]\([^)]*\)[.,:]?", line):
            continue
        yield Line(number, line)


def columns(text: str) -> int:
    """The width in a terminal: Chinese characters take two columns."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", without_code(read(page)), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (unique := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(unique)
    return found


def objection(page: Path, link: str) -> str | None:
    """What is wrong with a relative link of a page."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return f"{link}: no such file"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target)):
        return f"{link}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_resolve(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", without_code(read(page)))
    links = [link for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text) if not re.match(r"[a-z]+:", link)]
    assert [wrong for link in links if (wrong := objection(page, link))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_prose_breaks_at_100_columns(page: Path) -> None:
    assert [line for line in prose(page) if columns(line.text) > COLUMNS] == []


def test_comments_of_the_charts_values_break_at_100_columns() -> None:
    values = ROOT / "charts" / "qwen-operator" / "values.yaml"
    comments = [line for line in read(values).splitlines() if line.lstrip().startswith("#")]
    assert len(comments) > 40
    assert [line for line in comments if len(line) > COLUMNS] == []


def test_the_glossary_defines_each_term_once() -> None:
    sections = re.split(r"^### +", read(GLOSSARY), flags=re.MULTILINE)[1:]
    names = [section.partition("\n")[0].strip().lower() for section in sections]
    assert sorted(names) == sorted(set(names))
    assert set(names) >= TERMS
    for section in sections:
        definition = " ".join(re.split(r"^#", section.partition("\n")[2], flags=re.MULTILINE)[0].split())
        assert 80 < len(definition) < 500, section


@pytest.mark.parametrize("page", ["README.md", "docs/README.md", "docs/operations.md", "docs/runbooks/README.md"])
def test_the_entry_pages_link_to_the_glossary(page: str) -> None:
    assert "glossary.md" in read(ROOT / page)


def test_no_translated_idiom_stands_in_what_users_read() -> None:
    found = [
        f"{name_of(path)}: {match[0]}"
        for path in [*ROOT.glob("README*"), *files("docs", "charts")]
        if path.suffix != ".png"
        for match in TRANSLATED.finditer(read(path))
    ]
    assert found == []


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_a_chinese_page_has_the_code_and_the_shape_of_the_english_one(english: str, chinese: str) -> None:
    pages = [read(ROOT / name) for name in (english, chinese)]
    headings = [re.findall(r"^(#+) ", without_code(page), re.MULTILINE) for page in pages]
    assert headings[0] == headings[1]
    rows = [len(re.findall(r"^\|", page, re.MULTILINE)) for page in pages]
    assert rows[0] == rows[1]
    # comments and pictures are translated, too
    code = [[re.sub(r" *#.*", "", block) for block in blocks(page)] for page in pages]
    assert code[0] == code[1]


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_the_two_languages_link_to_each_other(english: str, chinese: str) -> None:
    for here, there in ((english, chinese), (chinese, english)):
        assert f"({Path(there).name})" in read(ROOT / here)
    assert HAN.search(read(ROOT / chinese))


def blocks(page: str) -> list[str]:
    """The code blocks of a page that have a language."""
    return re.findall(r"^```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
