"""The real server on a real vLLM: a process on loopback, and the fixtures that start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import httpx
import pytest

from qwen_server.engine.processes import descendants, is_running
from tests.cluster.settings import ROOT
from tests.loopback import NO_TLS

START_SECONDS = 480.0  # about a minute on two idle cores
PATCHES_OFF = "--patches=off"


class ServerProcess:
    """`python -m qwen_server` with flags; what it logs goes to `lines`.

    `thresholds` are those of alerts, in seconds. With QWEN_TEST_PATCHES=off in the environment
    every server leaves out its patches of vLLM and uvicorn.
    """

    # The interpreter with vLLM; the client programs' tests run in another one.
    python: ClassVar[str] = sys.executable
    # The latest servers, also those that have ended: the report of a failed test shows their logs.
    latest: ClassVar[deque[ServerProcess]] = deque(maxlen=4)

    def __init__(self, folder: Path, *flags: str, **thresholds: float) -> None:
        self.termination_log = folder / "termination-log"
        self.termination_log.touch()
        self.podinfo = folder / "podinfo"
        self.podinfo.mkdir()
        self._alerts = folder / "alerts.json"
        if thresholds:
            self._write_alerts(thresholds)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        command = [self.python, "-m", "qwen_server", "--host=127.0.0.1", f"--port={self.port}", "--device=cpu"]
        command += ["--enforce-eager", f"--termination-log={self.termination_log}", f"--podinfo-dir={self.podinfo}"]
        command += [f"--alerts-file={self._alerts}", *_patch_flags(flags), *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=_environment(), text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.latest.append(self)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits for `condition`; fails if the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode} before: {what}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(min(0.5, seconds / 100))

    def until_requests(self, running: int, waiting: int, seconds: float = 20) -> None:
        """Waits until this many requests run and wait."""

        def counted() -> bool:
            requests = self.metrics()["requests"]
            return (requests["running"], requests["waiting"]) == (running, waiting)

        self.until(counted, seconds, f"{running} requests run and {waiting} wait")

    def until_ready(self) -> None:
        """Waits until the server accepts requests."""
        self.until(lambda: self.status("/health/ready") == 200, START_SECONDS, "ready")

    def refused_of_warm_up(self) -> list[str]:
        """The log lines about requests of the warm-up that vLLM refused."""
        return [line for line in self.lines if '"warm-up: ' in line]

    def status(self, path: str) -> int:
        """The status code of a GET; 0 if there is no connection."""
        try:
            return httpx.get(self.url + path, timeout=30, verify=NO_TLS).status_code
        except httpx.TransportError:
            return 0

    def begin_stream(self, pool: ThreadPoolExecutor, body: dict[str, Any]) -> Future[list[str]]:
        """Streams a completion in a thread; returns after the first event. The result: all data."""
        begun = threading.Event()
        stream = pool.submit(self._events, body, begun)
        assert begun.wait(60), "the stream does not start"
        return stream

    def _events(self, body: dict[str, Any], begun: threading.Event) -> list[str]:
        found = []
        body = body | {"stream": True}
        url = f"{self.url}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=300, verify=NO_TLS) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    found.append(line.removeprefix("data: "))
                    begun.set()
        return found

    def metrics(self) -> dict[str, Any]:
        """The body of /api/v1/metrics."""
        body: dict[str, Any] = httpx.get(f"{self.url}/api/v1/metrics", timeout=30, verify=NO_TLS).json()
        return body

    def engine_metric(self, name: str) -> float:
        """The sum over the labels of an engine metric, from a page that is rendered after the call.

        The server renders the page at most once a second, so that an older page may miss requests.
        """
        old = _sample(self._page(), "qwen_uptime_seconds")
        page = self._page()
        deadline = time.monotonic() + 10
        while _sample(page, "qwen_uptime_seconds") == old:
            assert time.monotonic() < deadline, "the page of metrics is not rendered again"
            time.sleep(0.1)
            page = self._page()
        return _sample(page, name)

    def _page(self) -> list[str]:
        return httpx.get(f"{self.url}/metrics/prometheus", timeout=30, verify=NO_TLS).text.splitlines()

    def active_alerts(self) -> list[str]:
        """The names of active alerts."""
        return [alert["name"] for alert in self.metrics()["alerts"]]

    def children(self) -> list[int]:
        """The processes of the engine."""
        return descendants(self.process.pid)

    def set_thresholds(self, **thresholds: float) -> None:
        """Changes thresholds of alerts and waits until the server has read them."""
        seen = len(self.lines)
        self._write_alerts(thresholds)
        self.until(lambda: any("read alert rules" in line for line in self.lines[seen:]), 60, "the file is read")

    def _write_alerts(self, thresholds: Mapping[str, float]) -> None:
        alerts = [{"name": name, "threshold": threshold} for name, threshold in thresholds.items()]
        self._alerts.write_text(json.dumps({"alerts": alerts}))

    def engine_core(self) -> int:
        """The process id of vLLM's engine core."""
        (core,) = self._children_called(b"::EngineCore")
        return core

    def engine_core_or_none(self) -> int | None:
        """The process id of vLLM's engine core, if it has begun its work."""
        found = self._children_called(b"::EngineCore")
        return found[0] if found else None

    def worker(self) -> int:
        """The process that computes: vLLM's worker, or the engine core if there is none."""
        return (self.workers() or [self.engine_core()])[0]

    def workers(self) -> list[int]:
        """The process ids of vLLM's workers, if they have processes of their own."""
        return self._children_called(b"Worker")

    def _children_called(self, title: bytes) -> list[int]:
        return [pid for pid in self.children() if title in command_line(pid)]

    def exit_code(self, seconds: float = 60) -> int:
        """Waits for the end of the process and reads the rest of the log."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def last_message(self) -> str:
        """The server's own last log message."""
        return str(json.loads(self.lines[-1])["message"])

    def kill(self) -> None:
        """Kills the server and waits for the engine's processes, which end by themselves.

        multiprocessing's resource tracker must end last: it frees their shared memory.
        """
        children = self.children()
        self.process.kill()
        self.process.wait(30)
        wait_until_gone(children, 90)


@contextlib.contextmanager
def ready_server(folder: Path, *flags: str, **thresholds: float) -> Iterator[ServerProcess]:
    """A server that accepts requests, as each of its warm-up; it ends with the block."""
    process = ServerProcess(folder, *flags, **thresholds)
    try:
        process.until_ready()
        assert process.refused_of_warm_up() == []
        yield process
    finally:
        process.kill()


def real_server(
    *flags: str,
    engine: Sequence[str] = (),
    model: str | None = None,
    scope: Literal["function", "module", "session"] = "module",
    **thresholds: float,
) -> Any:
    """Makes a fixture: a server that accepts requests.

    `engine` are flags of vLLM, and `model` names a fixture that returns the model's folder. The
    fixtures `http`, `sdk` and `anthropic_sdk` are clients of a module's fixture `server`:

        server = real_server("--max-queue-size=4", engine=["--max-num-seqs=32"])
    """

    @pytest.fixture(scope=scope)
    def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
        models = [f"--model={request.getfixturevalue(model)}"] if model else []
        folder = tmp_path_factory.mktemp("server")
        with ready_server(folder, *models, *flags, "--", *engine, **thresholds) as process:
            yield process

    return server


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stops a process with SIGSTOP during the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _patch_flags(flags: Sequence[str]) -> list[str]:
    left_out = os.environ.get("QWEN_TEST_PATCHES") == "off" and PATCHES_OFF not in flags
    return [PATCHES_OFF] if left_out else []


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QWEN_")}
    # Without compiled bytecode, vLLM's imports take twice as long.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if "QWEN_MODELS_DIR" in os.environ:
        environment["QWEN_MODELS_DIR"] = os.environ["QWEN_MODELS_DIR"]
    # As in a pod: several engines share the cores.
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    return environment | {"PYTHONPATH": str(ROOT / "server" / "src")}


def _sample(page: list[str], name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in page if line.startswith((f"{name}{{", f"{name} ")))


def command_line(pid: int) -> bytes:
    """The command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def zombies_of(parent: int) -> list[int]:
    """The ended children of a process for which it has not waited."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, ppid, *_ = path.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
            if (state, int(ppid)) == ("Z", parent):
                found.append(int(path.parent.name))
    return found


def wait_until_gone(pids: Iterable[int], seconds: float = 15) -> None:
    """Fails if a process still exists after `seconds`."""
    deadline = time.monotonic() + seconds
    left = list(pids)
    while left := [pid for pid in left if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
