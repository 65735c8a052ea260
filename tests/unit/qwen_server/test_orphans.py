"""Processes that a dead engine leaves behind, in a process of our own that adopts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "server" / "src"

PROGRAM = """
import multiprocessing, os, subprocess, time
from multiprocessing import connection
from qwen_server.engine.processes import Reaper, adopt_orphans

def ended():
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return "no children"

adopt_orphans()
subprocess.run(["sh", "-c", "for each in 1 2 3; do sh -c 'kill -9 $$' & done"], check=True)
while not ended():
    time.sleep(0.01)
reaper = Reaper()
reaper.look()
print(ended() != "no children", end=" ")  # it may still be waited for
core = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
core.start()
connection.wait([core.sentinel])
late = subprocess.Popen(["sh", "-c", "exit 5"])
print(late.wait(), end=" ")
deadline = time.monotonic() + 20
while ended() != "no children" and time.monotonic() < deadline:
    reaper.look()
    time.sleep(0.01)
print(ended(), core.exitcode)
"""


def test_orphans_that_have_ended_are_waited_for() -> None:
    command = [sys.executable, "-c", PROGRAM]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("True 5 no children 7", "")
