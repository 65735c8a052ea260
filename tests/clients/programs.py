"""Runs command-line clients that are installed beside this Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SECONDS = 240


def run(program: str, *arguments: str, folder: Path, fails: bool = False, **env: str) -> str:
    """Runs a program in `folder`, which is also its home. Returns what it printed."""
    private = {"HOME": str(folder), "NO_COLOR": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=folder,
        env={**os.environ, **private, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode != 0) == fails, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr if fails else done.stdout
