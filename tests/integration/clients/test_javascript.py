"""The JavaScript clients on real vLLM: runs `tests/integration/js/*.test.mjs`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster import javascript
from tests.cluster.settings import Settings
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

SCRIPTS = sorted(javascript.LIBRARIES.pins.glob("*.test.mjs"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name.partition(".")[0])
def test_the_script_passes(server: ServerProcess, no_blanks: dict[str, int], script: Path, tmp_path: Path) -> None:
    packages = javascript.LIBRARIES.installed(Settings.from_env()) / "node_modules"
    node = shutil.which("node")
    assert node, "node is not installed: run `make deps`"
    assert packages.is_dir(), "the JavaScript packages are not installed: run `make deps`"
    # Node looks for packages beside the script.
    shutil.copy(script, tmp_path)
    shutil.copy(javascript.LIBRARIES.pins / "common.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(packages)
    done = subprocess.run(
        [node, "--test", script.name],
        cwd=tmp_path,
        env={**os.environ, "QWEN_URL": server.url, "QWEN_NO_BLANKS": json.dumps(no_blanks)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(count) for name, count in re.findall(r"(\w+) (\d+)$", done.stdout, re.MULTILINE)}
    written = script.read_text(encoding="utf-8").count('\ntest("')
    assert (counts["pass"], counts["skipped"]) == (written, 0), done.stdout
