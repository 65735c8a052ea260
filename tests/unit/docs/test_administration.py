"""The commands of docs/administration.md give the answers that the page shows."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.executed_examples import examples
from tests.unit.qwen_server.serving import serve

TEST = "tests/unit/docs/test_administration.py"


async def test_the_commands_of_the_page_answer_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("a-key\n")
    async with serve(admin_api_keys_dir=tmp_path) as served:
        served.engine.maintenance.empties = True
        found = examples("administration.md", TEST)
        assert len(found) == 6
        for command, shown in found:
            here = command.replace("http://localhost:8000", served.url)
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", here),
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"ADMIN_KEY": "a-key", "NO_PROXY": "127.0.0.1"},
            )
            output, _ = await process.communicate()
            assert output.decode().strip() == shown, command
