"""How a reader of a clone runs `qwen-server`, which the pages call: docs/operations.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_server import __version__
from qwen_server.config.command_line import load_settings

from .shell_blocks import commands

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
SECTION = (DOCS / "operations.md").read_text(encoding="utf-8").partition("\n## Run only the server\n")[2]
MAKE, ALIAS = re.findall(r"^\$ (.*)$", SECTION.partition("\n## ")[0], re.MULTILINE)
# The pages that call the server as a program, in blocks with or without a prompt.
CALLERS = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if re.search(r"^(?:\$ )?qwen-server ", page.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_make_serve_passes_flags_on() -> None:
    dry = subprocess.run(
        ["make", "--dry-run", *shlex.split(MAKE)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    [line] = [line for line in dry.stdout.splitlines() if " -m qwen_server " in line]
    settings = load_settings(shlex.split(line.partition(" -m qwen_server ")[2]))
    assert (settings.task, settings.model, settings.port) == ("embed", "Qwen/Qwen3-Embedding-0.6B", 8000)
    assert settings.enforce_eager


def test_the_alias_runs_the_server_of_the_clone(tmp_path: Path) -> None:
    python = tmp_path / "qwen-vllm" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ""}
    script = f"shopt -s expand_aliases\n{ALIAS}\ncd /\nqwen-server --version\n"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"qwen-server {__version__}\n"


def test_the_images_start_the_server() -> None:
    entries = re.findall(r"^ENTRYPOINT (.*)$", (ROOT / "server" / "Dockerfile").read_text(), re.MULTILINE)
    assert len(entries) == 2
    assert [json.loads(entry)[-2:] for entry in entries] == [["-m", "qwen_server"]] * 2


@pytest.mark.parametrize("page", CALLERS, ids=lambda page: str(page.stem))
def test_a_page_that_calls_the_server_says_how_to_run_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "(operations.md#run-only-the-server)" in text
    calls = [command.arguments for command in commands(page) if command.program == "qwen-server"]
    bash = re.findall(r"^```bash\n(qwen-server .*?)^```", text, re.MULTILINE | re.DOTALL)
    calls += [shlex.split(call.replace("\\\n", ""))[1:] for call in bash]
    assert calls
    for arguments in calls:
        load_settings(arguments)


def test_the_pages_that_call_the_server_are_found() -> None:
    assert [page.stem for page in CALLERS] == ["adapters", "embeddings", "tenants"]
