"""Runs jobs in processes of their own, each of which can be killed.

The server spawns one process that loads what the jobs need, and this process forks for each job
(see `forking.py`). It ends with the thread that started it, whatever ends that thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from qwen_server.engine.processes import cpu_seconds, descendants, is_running
from qwen_server.engine.vllm.grammars import forking

_log = logging.getLogger(__name__)

_FORK_SECONDS = 10.0  # far longer than a fork takes: a process that needs more is stopped or hangs
_RELAUNCH_SECONDS = 5.0


class ForkServerError(Exception):
    """The process that forks is not there, for a reason that has nothing to do with the job."""


class JobDiedError(Exception):
    """The job's process ended without a result."""


class JobTimeoutError(Exception):
    """The job took too long. `used` is the CPU time that it had, in seconds."""

    def __init__(self, used: float) -> None:
        super().__init__(f"the job took too long ({used:.1f} s of CPU time)")
        self.used = used


@dataclass(frozen=True, slots=True)
class _Process:
    """The process that forks, and the socket to it. `child` is None if it is not our child."""

    pid: int
    control: socket.socket
    child: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        """Kills it."""
        self.control.close()
        if self.child is None:
            if self.pid in descendants():
                os.kill(self.pid, signal.SIGKILL)
            return
        self.child.kill()  # only if it has not ended: its number may be another's by now
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(0.1)


class ForkServer:
    """Runs jobs with the function that `target` returns for `setup`.

    The process starts at the first job or at `launch`. `executor` must have a thread that lives as
    long as the server, because the kernel ends the process with the thread that started it.
    `setup` is called in that thread. `memory` is in bytes.

    Another process that has done the imports may offer a fork of itself (see `socket_for_fork`).
    """

    def __init__(
        self,
        target: str,
        setup: Callable[[], bytes],
        *,
        executor: Executor,
        environment: Callable[[], Mapping[str, str]],
        memory: int,
    ) -> None:
        self._target = target
        self._setup = setup
        self._executor = executor
        self._environment = environment
        self._memory = memory
        self._current: asyncio.Task[_Process] | None = None
        self._launched_at = -_RELAUNCH_SECONDS
        self._offered: socket.socket | None = None

    def socket_for_fork(self) -> socket.socket:
        """A socket for a process that calls `forking.serve_in_fork` after its imports."""
        self._offered, theirs = socket.socketpair()
        return theirs

    def processes(self) -> list[int]:
        """The IDs of its processes. They are no part of the engine."""
        running = self._running()
        return [] if running is None else [running.pid, *descendants(running.pid)]

    def _running(self) -> _Process | None:
        task = self._current
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def launch(self) -> None:
        """Starts the process if it does not run. Raises ForkServerError."""
        await self._process()

    async def run(self, job: bytes, seconds: float) -> bytes:
        """The result of `job`, which may take `seconds`. Cancelling this ends the job.

        Raises JobTimeoutError, JobDiedError and ForkServerError.
        """
        running = await self._process()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(running.control, [b"j"], [theirs.fileno()])
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 16)
        except OSError as error:
            ours.close()
            self._discard(running)
            raise ForkServerError(f"the process has ended: {error}") from error
        try:
            return await self._converse(running, reader, writer, job, seconds)
        finally:
            writer.close()

    async def _converse(
        self,
        running: _Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        job: bytes,
        seconds: float,
    ) -> bytes:
        try:
            async with asyncio.timeout(_FORK_SECONDS):
                pid = forking.LENGTH.unpack(await reader.readexactly(forking.LENGTH.size))[0]
        except (TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            self._discard(running)
            raise ForkServerError("the process did not fork") from error
        ended = False
        try:
            async with asyncio.timeout(seconds):
                writer.write(forking.LENGTH.pack(len(job)) + job)
                await writer.drain()
                size = forking.LENGTH.unpack(await reader.readexactly(forking.LENGTH.size))[0]
                result = await reader.readexactly(size)
                ended = True
                return result
        except TimeoutError:
            raise JobTimeoutError(cpu_seconds([pid]).get(pid, seconds)) from None
        except (asyncio.IncompleteReadError, OSError) as error:
            ended = True
            if not is_running(running.pid):
                self._discard(running)
                raise ForkServerError("the process has ended") from error
            raise JobDiedError("the job ended without a result") from error
        finally:
            if not ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def _process(self) -> _Process:
        """The running process. All jobs wait for the same start."""
        if self._current is None or (self._current.done() and self._running() is None):
            if time.monotonic() - self._launched_at < _RELAUNCH_SECONDS:
                raise ForkServerError("the process has just ended and starts again in a few seconds")
            self._launched_at = time.monotonic()
            self._current = asyncio.create_task(self._launch(), name="fork-server")
        return await asyncio.shield(self._current)

    async def _launch(self) -> _Process:
        started = time.monotonic()
        try:
            made = await asyncio.get_running_loop().run_in_executor(self._executor, self._start)
        except (OSError, RuntimeError) as error:
            _log.warning("the process that checks grammars did not start: %s", error)
            raise ForkServerError(str(error)) from error
        _log.info("the process that checks grammars started in %.1f s", time.monotonic() - started)
        return made

    def _start(self) -> _Process:
        """Starts the process and waits until it is ready. Runs in the executor."""
        offered, self._offered = self._offered, None
        if offered is not None:
            try:
                return _Process(self._set_up(offered), offered)
            except (OSError, RuntimeError) as error:
                offered.close()
                _log.info("the fork of another process cannot be used: %s", error)
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = f"{theirs.fileno()}, {os.getpid()}"
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-c", f"from {forking.__name__} import main; main({arguments})"],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=dict(self._environment()),
                process_group=0,  # a Ctrl-C in the terminal is for the server alone
            )
        try:
            return _Process(self._set_up(ours), ours, child)
        except BaseException:
            _Process(child.pid, ours, child).end()
            raise

    def _set_up(self, control: socket.socket) -> int:
        """Sends the process what it needs. Returns its ID once it is ready."""
        for message in (self._target.encode(), str(self._memory).encode(), self._setup()):
            forking.send(control, message)
        answer = forking.receive(control)
        if answer is None or not answer.startswith(forking.READY):
            raise RuntimeError("it has ended" if answer is None else answer.decode(errors="replace"))
        return int(answer.removeprefix(forking.READY))

    def _discard(self, running: _Process) -> None:
        """Ends a process that does not work, so that the next job starts another one."""
        if self._running() is running:
            self._current = None
            _log.warning("the process that checks grammars has ended and is started again when it is needed")
        running.end()

    def renew(self) -> None:
        """Ends the process and its jobs. The next job starts another one at once."""
        self.close()
        self._launched_at = -_RELAUNCH_SECONDS

    def close(self) -> None:
        """Ends the process and its jobs."""
        running, self._current = self._running(), None
        if running is not None:
            running.end()
