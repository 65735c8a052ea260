"""What the fork server of the tests runs: a job is the name of what to do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable


def start(setup: bytes) -> Callable[[bytes], bytes]:
    if setup == b"broken":
        raise RuntimeError("cannot be set up")
    return lambda job: _do(setup, job.decode())


def _do(setup: bytes, job: str) -> bytes:
    what, _, value = job.partition(" ")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "fill":
        return str(len(bytearray(int(value)))).encode()
    if what == "spin":
        until = time.monotonic() + float(value)
        while time.monotonic() < until:
            pass
    if what == "sleep":
        time.sleep(float(value))
    if what == "pid":
        return str(os.getpid()).encode()
    return setup + b" " + job.encode()
