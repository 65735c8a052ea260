"""The openai package for JavaScript on real vLLM: runs `tests/integration/js/client.test.mjs`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster import javascript
from tests.cluster.settings import Settings
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

SCRIPT = javascript.PINS / "client.test.mjs"


def test_the_script_passes(server: ServerProcess, tmp_path: Path) -> None:
    packages = javascript.installed(Settings.from_env()) / "node_modules"
    node = shutil.which("node")
    assert node, "node is not installed: run `make deps`"
    assert (packages / "openai").is_dir(), "the openai package for JavaScript is not installed: run `make deps`"
    # Node looks for packages beside the script.
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages)
    done = subprocess.run(
        [node, "--test", SCRIPT.name],
        cwd=tmp_path,
        env={**os.environ, "QWEN_URL": server.url},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: int(count) for name, count in re.findall(r"(\w+) (\d+)$", done.stdout, re.MULTILINE)}
    written = SCRIPT.read_text(encoding="utf-8").count('\ntest("')
    assert (counts["pass"], counts["skipped"]) == (written, 0), done.stdout
