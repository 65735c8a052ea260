"""The JavaScript clients' own retries; `make test` runs all else that they do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.overload import RATE, through_a_full_queue
from tests.clients.questions import ANSWER
from tests.cluster import javascript
from tests.cluster.settings import Settings
from tests.integration.server_process import ServerProcess

SCRIPT = Path(__file__).with_name("refusals.mjs")
CLIENTS = pytest.mark.parametrize("client", ["openai", "ai-sdk"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Node looks for packages beside the script."""
    folder = tmp_path_factory.mktemp("js")
    for file in (SCRIPT, javascript.LIBRARIES.pins / "common.mjs"):
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(javascript.LIBRARIES.installed(Settings.from_env()) / "node_modules")
    return folder


def outcome(folder: Path, server: ServerProcess, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        ["node", SCRIPT.name, *arguments],
        cwd=folder,
        env={**os.environ, "QWEN_URL": server.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@CLIENTS
def test_a_wrong_key_is_not_retried(folder: Path, server: ServerProcess, client: str) -> None:
    found = outcome(folder, server, client, "wrong")
    kind = {"openai": "AuthenticationError", "ai-sdk": "APICallError"}[client]
    assert (found["status"], kind in found["kind"]) == (401, True), found


@CLIENTS
def test_a_rate_limit_is_waited_out(folder: Path, server: ServerProcess, key: str, client: str) -> None:
    found = outcome(folder, server, client, key, str(3 * RATE))
    assert (found["text"], found["limited"]) == (ANSWER, True)


@CLIENTS
def test_a_full_queue_is_waited_out(folder: Path, server: ServerProcess, key: str, client: str) -> None:
    found = through_a_full_queue(server, key, lambda: outcome(folder, server, client, key)).result
    assert found["text"] == ANSWER
    assert found["seconds"] >= 1  # their own first pause is shorter, or twice as long
