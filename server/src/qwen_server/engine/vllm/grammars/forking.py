"""Runs in the fork server's process: loads what the jobs need, then forks for each job.

Forking makes a job cost milliseconds, although its imports take seconds, and a job that is killed
costs nothing. The process has a single thread, so that forking it is safe.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qwen_server.engine.processes import die_with_parent

READY: Final = b""  # any other message is why the process cannot be used
LENGTH: Final = struct.Struct("!I")
Work = Callable[[bytes], bytes]

_NICENESS = 5  # the engine and the event loop come first
_OOM_SCORE = 1000  # the first process that the kernel ends if memory runs out


def main(control_descriptor: int, parent: int, target: str, memory: int) -> None:
    """Serves jobs until the parent closes its end or ends itself.

    Args:
        control_descriptor: the socket of the fork server.
        parent: the process ID of the parent.
        target: `package.module:function`. It gets the setup and returns the function for the jobs.
        memory: how many bytes a job may allocate.
    """
    die_with_parent(parent)
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then removes ended jobs by itself
    control = socket.socket(fileno=control_descriptor)
    setup = receive(control)
    if setup is None:
        return
    logging.basicConfig(handlers=[logging.NullHandler()])  # the log is the server's
    warnings.simplefilter("ignore")
    module, _, name = target.partition(":")
    try:
        work: Work = getattr(importlib.import_module(module), name)(setup)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server reports it
        send(control, f"{type(error).__name__}: {error}".encode())
        return
    gc.collect()
    gc.freeze()
    send(control, READY)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                control.close()
                _run(connection, work, memory)


def _run(connection: socket.socket, work: Work, memory: int) -> None:
    """Runs one job in its own process, and ends it."""
    try:
        die_with_parent(None)
        gc.disable()
        _limit(memory)
        connection.sendall(LENGTH.pack(os.getpid()))
        job = receive(connection)
        if job is not None:
            send(connection, work(job))
    finally:
        os._exit(0)


def _limit(memory: int) -> None:
    """Bounds what this process may allocate, and hides what libraries print about the job."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    used = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nothing, stream.fileno())


def send(connection: socket.socket, data: bytes) -> None:
    """Sends a message: its length, then its bytes."""
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes | None:
    """Receives a message. None if the other end has closed the connection."""
    header = _exactly(connection, LENGTH.size)
    return None if header is None else _exactly(connection, LENGTH.unpack(header)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)
