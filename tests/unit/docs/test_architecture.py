"""The tour in docs/architecture.md names only files, classes and functions that exist."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SERVER = ROOT / "server" / "src" / "qwen_server"
OPERATOR = ROOT / "operator" / "src" / "qwen_operator"
QUOTED = re.compile(r"`([^`\n]+)`")
# What a reader fills in.
PLACEHOLDER = re.compile(r"NAME|PATH")


@cache
def sources() -> str:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in listed.stdout.split())


def quoted(part: str) -> list[str]:
    text = re.sub(r"```.*?```", "", part, flags=re.DOTALL)
    return [name for name in QUOTED.findall(text) if not PLACEHOLDER.search(name)]


def parts() -> dict[Path, str]:
    """The page's halves, by the package whose paths they shorten."""
    server, operator = PAGE.index("## The server"), PAGE.index("## The operator")
    return {SERVER: PAGE[server:operator], OPERATOR: PAGE[operator : PAGE.index("## What both share")]}


def test_every_file_of_the_tour_exists() -> None:
    for package, part in parts().items():
        named = [name for name in quoted(part) if re.fullmatch(r"[\w./-]+(\.py|/)", name)]
        assert len(named) > 30
        for name in named:
            beside = [folder / name for folder in package.rglob("*") if folder.is_dir()]
            tests = [] if "/" in name else list((ROOT / "tests").rglob(name))
            assert any(path.exists() for path in (ROOT / name, package / name, *beside, *tests)), name


def test_every_class_and_function_of_the_tour_exists() -> None:
    for part in parts().values():
        for name in quoted(part):
            method = re.fullmatch(r"([A-Z]\w+)\.(_?[a-z]\w+)", name)
            if method and method[1] != "AsyncLLM":
                assert re.search(rf"^class {method[1]}\b", sources(), re.MULTILINE), name
                assert re.search(rf"^    (async )?def {method[2]}\b", sources(), re.MULTILINE), name


def test_every_patch_is_in_the_table() -> None:
    from qwen_server.config.patches import ALL_PATCHES  # noqa: PLC0415 - only this test needs the server

    for name in ALL_PATCHES:
        assert re.search(rf"^\| `{name}` \| `[\w/]+\.py` \|", PAGE, re.MULTILINE), name
