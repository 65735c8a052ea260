"""The servers as processes on loopback, with the same engine, model, environment and bytecode."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks import rust_frontend
from benchmarks.console import say
from benchmarks.pace import WHICH
from benchmarks.procfs import Memory, cpu_of, memory_of
from qwen_server.engine.processes import descendants

ROOT = Path(__file__).parents[1]
NAME = "bench"  # the model's name in both APIs
START_SECONDS = 600.0
PATCHES_OFF = "--patches=off"
Which = Literal["ours", "unpatched", "vllm", "rust"]
_LABEL = {
    "ours": "this server",
    "unpatched": "this server, patches off",
    "vllm": "vLLM's server",
    "rust": "vLLM's Rust frontend",
}


class ServerError(Exception):
    """A server did not start or has ended; the message names its log."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine settings of all servers; `extra` are more of vLLM's own flags."""

    model: str
    device: Literal["cpu", "cuda"]
    kv_cache_gib: float = 1.0  # on a CPU
    gpu_memory_utilization: float = 0.3  # on a GPU that all engines share
    max_model_len: int | None = None
    dtype: str = "auto"
    eager: bool = True
    extra: tuple[str, ...] = ()

    @property
    def measures_memory(self) -> bool:
        """Whether an engine looks at the free memory of the device at its start."""
        fixed = any(flag.startswith("--kv-cache-memory-bytes") for flag in self.extra)
        return self.device == "cuda" and not fixed

    def with_extra(self, *extra: str) -> Engine:
        """A copy with more of vLLM's flags."""
        return replace(self, extra=(*self.extra, *extra))


class Server:
    """A started server."""

    def __init__(
        self,
        which: Which,
        engine: Engine,
        folder: Path,
        flags: tuple[str, ...] = (),
        *,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.which = which
        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._log_path = folder / f"{which}-{self.port}.log"
        command = _command(which, engine, folder, self.port, flags)
        env = _environment(engine) | dict(variables or {}) | {WHICH: which}
        if which == "rust":
            env = rust_frontend.environment(folder, env)
        self.started_at = time.monotonic()
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid = self._process.pid

    @property
    def label(self) -> str:
        """The name of the server for messages."""
        return _LABEL[self.which]

    def frontend_pids(self) -> list[int]:
        """The processes that are not the engine's.

        The first process serves HTTP and is the parent of the engine's. The Rust frontend is a
        child of it, and the first process only watches the others.
        """
        below = descendants(self._pid) if self.which == "rust" else []
        return [self._pid, *(pid for pid in below if rust_frontend.is_frontend(pid))]

    def engine_pids(self) -> list[int]:
        """The processes of the engine."""
        frontend = set(self.frontend_pids())
        return [pid for pid in descendants(self._pid) if pid not in frontend]

    def frontend_cpu(self) -> float:
        """Seconds of CPU that the frontend has used so far."""
        return sum(map(cpu_of, self.frontend_pids()))

    def frontend_memory(self) -> Memory:
        """The memory of the frontend now."""
        each = [memory_of(pid) for pid in self.frontend_pids()]
        return Memory(sum(one.rss for one in each), sum(one.pss for one in each))

    def check(self) -> None:
        """Raises ServerError if the process has ended."""
        if self._process.poll() is not None:
            raise ServerError(f"{self.label} ended with {self._process.returncode}: see {self._log_path}")

    def get(self, path: str, timeout: float = 20.0) -> tuple[int, bytes]:
        """Status and body of a GET. Raises OSError if there is no answer."""
        return _exchange(self.port, "GET", path, None, timeout)

    def post(self, path: str, body: dict[str, Any], timeout: float = 300.0) -> tuple[int, bytes]:
        """Status and body of a POST of JSON. Raises OSError if there is no answer."""
        return _exchange(self.port, "POST", path, json.dumps(body).encode(), timeout)

    def is_ready(self) -> bool:
        """Whether the server reports that it accepts requests."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/health" if self.which in ("vllm", "rust") else "/health/ready")[0] == 200
        return False

    def until_ready(self) -> float:
        """Waits until the server is ready; returns seconds since its start. Raises ServerError."""
        deadline = self.started_at + START_SECONDS
        while not self.is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"{self.label} is not ready after {START_SECONDS:.0f} s: see {self._log_path}")
            time.sleep(0.1)
        return time.monotonic() - self.started_at

    def stop(self) -> None:
        """Ends the server with SIGTERM, then with SIGKILL, and its child processes."""
        below = descendants(self._pid)
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) == self._pid:  # the number may belong to another process by now
                    os.kill(pid, signal.SIGKILL)


def _exchange(port: int, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _command(which: Which, engine: Engine, folder: Path, port: int, flags: tuple[str, ...]) -> list[str]:
    listen = ["--host=127.0.0.1", f"--port={port}", f"--served-model-name={NAME}"]
    model = f"--model={engine.model}"
    common = [f"--dtype={engine.dtype}", *(["--enforce-eager"] if engine.eager else [])]
    common += [f"--max-model-len={engine.max_model_len}"] if engine.max_model_len else []
    common += [f"--gpu-memory-utilization={engine.gpu_memory_utilization}"] if engine.device == "cuda" else []
    if which in ("vllm", "rust"):
        cache = [f"--kv-cache-memory-bytes={int(engine.kv_cache_gib * (1 << 30))}"] if engine.device == "cpu" else []
        module = ["vllm.entrypoints.launchers.api_server.entry", model]
        if which == "rust":  # only this command starts it
            module = ["vllm.entrypoints.cli.main", "serve", engine.model]
        return [sys.executable, "-m", *module, *listen, *common, *cache, *flags, *engine.extra]
    files = [f"--termination-log={folder / 'termination-log'}", f"--podinfo-dir={folder}"]
    own = [f"--device={engine.device}", f"--kv-cache-gib={engine.kv_cache_gib}", *files, *flags]
    own += [PATCHES_OFF] if which == "unpatched" else []
    return [sys.executable, "-m", "qwen_server", model, *listen, *common, *own, "--", *engine.extra]


def environment() -> dict[str, str]:
    """The environment of every process, without variables that would change only one server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QWEN_", "VLLM_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    kept |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT / "server" / "src"), str(ROOT)])}


def _environment(engine: Engine) -> dict[str, str]:
    variables = environment()
    if engine.device == "cpu":
        # The servers share the cores: none binds its threads, and each engine computes on one.
        variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
        if engine.eager:
            # This server sets it by itself with --enforce-eager; otherwise vLLM compiles parts of
            # the sampler.
            variables["TORCH_COMPILE_DISABLE"] = "1"
    return variables


@contextlib.contextmanager
def running(
    which: Which,
    engine: Engine,
    folder: Path,
    flags: tuple[str, ...] = (),
    *,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server that accepts requests, until the end of the block."""
    server = Server(which, engine, folder, flags, variables=variables)
    try:
        seconds = server.until_ready()
        say(f"{server.label} is ready after {seconds:.0f} s")
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def side_by_side(
    engine: Engine,
    folder: Path,
    flags: Mapping[Which, tuple[str, ...]],
    *,
    variables: Mapping[str, str] | None = None,
) -> Iterator[dict[Which, Server]]:
    """The servers that `flags` names, each with its own flags.

    They start one after the other on a CPU, whose cores they share, and where an engine would see
    the memory that another one is just taking; else all at once.
    """
    with contextlib.ExitStack() as stack:
        if engine.device == "cpu" or engine.measures_memory:
            yield {
                which: stack.enter_context(running(which, engine, folder, own, variables=variables))
                for which, own in flags.items()
            }
            return
        servers = {}
        for which, own in flags.items():
            servers[which] = Server(which, engine, folder, own, variables=variables)
            stack.callback(servers[which].stop)
        for server in servers.values():
            say(f"{server.label} is ready after {server.until_ready():.0f} s")
        yield servers


def order(run: int, servers: Iterable[Which]) -> tuple[Which, ...]:
    """The order of the servers in a run: they take turns, so that none always goes last."""
    names = tuple(servers)
    first = run % len(names)
    return names[first:] + names[:first]
