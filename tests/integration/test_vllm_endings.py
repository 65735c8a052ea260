"""How real servers end: models that cannot be loaded, killed engines, a killed server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.integration import builtin_model
from tests.integration.server_process import START_SECONDS, ServerProcess, command_line, wait_until_gone

# A fast machine generates 512 tokens, the default limit, within a second.
LONG = {"prompt": "x", "max_tokens": 4000, "ignore_eos": True}

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900, func_only=True)]


@dataclass
class Loading:
    """Servers that never become ready. They start in parallel because each fails late."""

    unknown_architecture: ServerProcess
    damaged_weights: ServerProcess
    to_be_terminated: ServerProcess
    to_be_killed: ServerProcess


@contextlib.contextmanager
def killed_in_the_end(*servers: ServerProcess) -> Iterator[None]:
    try:
        yield
    finally:
        for server in servers:
            server.kill()


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loading]:
    folders = [tmp_path_factory.mktemp(name) for name in ("unknown", "damaged", "terminated", "killed")]
    unknown = builtin_model.copy(folders[0] / "model", architectures=["QwenOfTomorrow"])
    damaged = builtin_model.copy(folders[1] / "model")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    servers = [
        ServerProcess(folders[0], f"--model={unknown}"),
        ServerProcess(folders[1], f"--model={damaged}"),
        ServerProcess(folders[2]),
        ServerProcess(folders[3]),
    ]
    with killed_in_the_end(*servers):
        yield Loading(*servers)


def wait_for_the_engines_processes(server: ServerProcess) -> list[int]:
    def started() -> bool:
        return any(b"EngineCore" in command_line(pid) for pid in server.children())

    server.until(started, START_SECONDS, "an engine process")
    return server.children()


def test_sigterm_while_loading_ends_the_children_too(loading: Loading) -> None:
    server = loading.to_be_terminated
    children = wait_for_the_engines_processes(server)
    assert httpx.get(f"{server.url}/health", timeout=10).json()["status"] == "starting"
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code() == 0
    wait_until_gone(children)


def test_the_engine_dies_with_a_server_that_is_killed(loading: Loading) -> None:
    server = loading.to_be_killed
    children = wait_for_the_engines_processes(server)
    server.process.kill()
    server.process.wait(10)
    # A new process notices only after its imports.
    wait_until_gone(children, 90)


def test_an_unknown_architecture_exits_78_and_is_named(loading: Loading) -> None:
    server = loading.unknown_architecture
    assert server.exit_code(START_SECONDS) == 78
    assert "QwenOfTomorrow" in server.last_message()
    assert "QwenOfTomorrow" in server.termination_log.read_text()


def test_damaged_weights_exit_78_with_the_workers_own_words(loading: Loading) -> None:
    server = loading.damaged_weights
    assert server.exit_code(START_SECONDS) == 78
    assert "Safetensor" in server.last_message()
    assert "Safetensor" in server.termination_log.read_text()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers that start in parallel; each ends in its own test."""
    folders = tmp_path_factory.mktemp("core-killed"), tmp_path_factory.mktemp("core-stopped")
    flag = f"--max-tokens-limit={LONG['max_tokens']}"
    servers = (
        ServerProcess(folders[0], flag, "--engine-restarts=0"),
        ServerProcess(folders[1], flag, EngineUnresponsive=3.0),
    )
    with killed_in_the_end(*servers):
        for server in servers:
            server.until_ready()
        yield servers


def test_a_killed_engine_core_ends_the_server_with_the_cause(pair: tuple[ServerProcess, ServerProcess]) -> None:
    server = pair[0]
    children = server.children()
    with ThreadPoolExecutor(2) as pool:
        streamed = server.begin_stream(pool, LONG)
        whole = pool.submit(httpx.post, f"{server.url}/v1/completions", json=LONG, timeout=60)
        server.until_requests(2, 0)
        os.kill(server.engine_core(), signal.SIGKILL)
        begun = time.monotonic()
        assert whole.result().status_code == 500
        assert "SIGKILL" in whole.result().json()["error"]
        assert "SIGKILL" in json.loads(streamed.result()[-1])["error"]["message"]
    assert server.exit_code() == 70
    print(f"ended {time.monotonic() - begun:.1f} s after its engine core was killed")
    assert time.monotonic() - begun < 20  # the drain alone may take 60 s
    assert "EngineCore was killed by SIGKILL" in server.last_message()
    assert "EngineCore was killed by SIGKILL" in server.termination_log.read_text()
    wait_until_gone(children)


def test_a_stopped_engine_core_is_restarted_in_place_without_a_drain(
    pair: tuple[ServerProcess, ServerProcess],
) -> None:
    server = pair[1]
    children = server.children()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(httpx.post, f"{server.url}/v1/completions", json=LONG, timeout=60)
        server.until_requests(1, 0)
        os.kill(server.engine_core(), signal.SIGSTOP)
        server.until(lambda: "EngineUnresponsive" in server.active_alerts(), 20, "the alert")
        (server.podinfo / "annotations").write_text('qwen-vllm.io/restart="7f3a"\n')
        begun = time.monotonic()
        assert server.exit_code() == 0
        assert time.monotonic() - begun < 20  # the drain alone may take 60 s
        assert lost.result().status_code >= 500
    assert "restart 7f3a" in server.last_message()
    wait_until_gone(children)
