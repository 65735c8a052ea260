"""Runs in the fork server's process: loads what the jobs need, then forks for each job.

Forking makes a job cost milliseconds, although its imports take seconds, and a job that is killed
costs nothing. Python has a single thread there, so that forking it is safe.

The process itself may be a fork of one that has done the imports, and so share its memory.
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

READY: Final = b"ready "  # and the process ID; any other message is why it cannot be used
LENGTH: Final = struct.Struct("!I")
Work = Callable[[bytes], bytes]

_STDERR = 2
_NICENESS = 5  # the engine and the event loop come first
_OOM_SCORE = 1000  # the first process that the kernel ends if memory runs out


def serve_in_fork(control_descriptor: int) -> None:
    """Forks this process. The fork serves jobs and never returns."""
    parent = os.getpid()
    if os.fork() != 0:
        os.close(control_descriptor)
        return
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) > _STDERR and int(name) != control_descriptor:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        for logger in (logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)):
            logger.handlers.clear()
        with contextlib.suppress(ImportError):
            importlib.import_module("setproctitle").setproctitle("qwen-server: grammars")
        main(control_descriptor, parent)
    finally:
        os._exit(0)


def main(control_descriptor: int, parent: int) -> None:
    """Serves jobs until `parent` closes its end of the socket or ends itself.

    The first messages are the name of a function, `package.module:function`, how many bytes a job
    may allocate, and the setup. The function gets the setup and returns the function for the jobs.
    """
    die_with_parent(parent)
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then removes ended jobs by itself
    control = socket.socket(fileno=control_descriptor)
    target, memory, setup = (receive(control) for _ in range(3))
    if target is None or memory is None or setup is None:
        return
    logging.basicConfig(handlers=[logging.NullHandler()])  # the log is the server's
    warnings.simplefilter("ignore")
    module, _, name = target.decode().partition(":")
    try:
        work: Work = getattr(importlib.import_module(module), name)(setup)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server reports it
        send(control, f"{type(error).__name__}: {error}".encode())
        return
    gc.collect()
    gc.freeze()
    here = os.getpid()
    send(control, READY + str(here).encode())
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                control.close()
                run_job(connection, work, int(memory), here)


def run_job(connection: socket.socket, work: Work, memory: int, parent: int) -> None:
    """Runs one job in its own process, and ends it. `parent` is the process that has forked it."""
    try:
        die_with_parent(parent)
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
