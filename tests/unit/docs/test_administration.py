"""The commands of docs/administration.md give the answers that the page shows."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from tests.unit.qwen_server.serving import serve

PAGE = Path(__file__).resolve().parents[3] / "docs" / "administration.md"
EXECUTED = re.compile(r"<!-- executed by \S+ -->\n\n```console\n(.*?)```", re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each command of the page that is executed, and its output."""
    (block,) = EXECUTED.findall(PAGE.read_text(encoding="utf-8"))
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(part.partition("\n")[0], part.partition("\n")[2].strip()) for part in parts]


async def test_the_commands_of_the_page_answer_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("a-key\n")
    async with serve(admin_api_keys_dir=tmp_path) as served:
        served.engine.maintenance.empties = True
        assert len(commands()) == 6
        for command, shown in commands():
            here = command.replace("http://localhost:8000", served.url)
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", here),
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"ADMIN_KEY": "a-key", "NO_PROXY": "127.0.0.1"},
            )
            output, _ = await process.communicate()
            assert output.decode().strip() == shown, command
