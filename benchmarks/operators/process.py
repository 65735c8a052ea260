"""An operator as a process: its CPU time and memory, and the two ways to end it."""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.shell import tail
from tests.integration.control_plane import ControlPlane, free_ports, stop, wait_until

from benchmarks.operators.subjects import Subject
from benchmarks.procfs import cpu_of, memory_of


class OperatorProcess:
    """A process that was started at `began` on the monotonic clock."""

    def __init__(self, popen: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._popen = popen
        self._port = port
        self._log = log
        self.began = time.monotonic()

    def check(self) -> None:
        """Raises RuntimeError with the end of its log if it has ended."""
        code = self._popen.poll()
        if code is not None:
            raise RuntimeError(f"the operator ended with {code}:\n{tail(self._log)}")

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        self.check()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return cpu_of(self._popen.pid)

    def memory(self) -> float:
        """The resident set in MiB."""
        return memory_of(self._popen.pid).rss

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._popen.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> None:
        """SIGTERM, and waits."""
        stop(self._popen)


@contextmanager
def operator(subject: Subject, plane: ControlPlane, folder: Path, identity: str) -> Iterator[OperatorProcess]:
    """Starts an operator and stops it at the end."""
    [port] = free_ports(1)
    start = subject.start(plane, identity, port)
    log = folder / f"{identity}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(start.command, env=dict(start.environment), stdout=output, stderr=output)
        process = OperatorProcess(popen, port, log)
        try:
            yield process
        finally:
            process.stop()


def until_ready(process: OperatorProcess, seconds: float = 60.0) -> None:
    """Waits until a process says that it is ready."""
    wait_until("the operator is ready", process.is_ready, seconds)
