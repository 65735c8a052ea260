"""Coding agents: the model that they talk to, and their programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.cluster import javascript
from tests.cluster.settings import Settings
from tests.integration import builtin_model
from tests.integration.clients import tool_model

NAME = "qwen3-coder"
# As docs/clients-claude-code.md and docs/clients-codex.md set them.
FLAGS = (
    f"--served-model-name={NAME}",
    "--model-aliases=claude-*,gpt-5-codex",
    "--max-tokens-limit=32768",
    "--default-max-tokens=8192",
)
# Prompt and answer together: an agent asks for answers of thousands of tokens.
CONTEXT = 49152
WHOLE = 90_000
SECONDS = 240
_PROGRAMS = {
    "claude": "@anthropic-ai/claude-code-linux-x64/claude",
    "codex": "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
    "opencode": "opencode-linux-x64-baseline/bin/opencode",
}


class Done(NamedTuple):
    """How a program ended, and what it printed."""

    code: int
    output: str
    errors: str

    def check_answer(self) -> None:
        """Fails if the program failed or printed no answer."""
        assert self.code == 0, self
        assert self.output.strip(), self


def build_model(folder: Path) -> Path:
    """Writes a model with a long context that reads the beginnings of messages and tools' names.

    A tiny model gains nothing from an agent's 40,000 tokens of instructions, and would take minutes
    to read them. It reads messages of `WHOLE` characters or more to their end, so that a prompt can
    be too long. Returns the folder, which must not exist.
    """
    tool_model.build(folder)
    builtin_model.update_json(folder / "config.json", max_position_embeddings=CONTEXT)
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    content = "message.content if message.content is string"
    for whole, beginning in (
        ("tool | tojson", "tool.function.name"),
        (content, f"(message.content if message.content | length >= {WHOLE} else message.content[:60]){content[15:]}"),
    ):
        assert whole in text
        text = text.replace(whole, beginning)
    template.write_text(text, encoding="utf-8")
    return folder


def run(program: str, *arguments: str, folder: Path, **env: str) -> Done:
    """Runs an agent in `folder`, with an empty folder beside it as its home."""
    home = folder.with_name("home")
    home.mkdir(exist_ok=True)
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [str(javascript.AGENTS.installed(Settings.from_env()) / "node_modules" / _PROGRAMS[program]), *arguments],
        cwd=folder,
        env=inherited | {"HOME": str(home), "NO_COLOR": "1", "NO_PROXY": "127.0.0.1,localhost"} | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
