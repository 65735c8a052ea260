"""Each package that an image installs has a build for each architecture on the package index."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.python_env import index_env, uv
from tests.cluster.requirements import FOLDER, LIBRARY, MACHINES
from tests.cluster.settings import Settings
from tests.cluster.shell import output


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["server-cpu", "operator"])
def test_every_pinned_package_has_a_build(name: str, machine: str, tmp_path: Path) -> None:
    settings = Settings.from_env()
    command: list[str | Path] = [uv(settings), "pip", "install", "--dry-run", "--target", tmp_path]
    command += ["--python-version", "3.11", "-r", FOLDER / f"{name}.txt"]
    options = ["--python-platform", f"{machine}-{LIBRARY}", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    env = {**os.environ, **index_env(settings)}
    output([*command, *options], env=env, timeout=300)
