"""Jobs in processes that can be killed: real processes, without vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qwen_server.engine.processes import descendants
from qwen_server.engine.vllm.grammars import fork_server
from qwen_server.engine.vllm.grammars.fork_server import ForkServer, ForkServerError, JobDiedError, JobTimeoutError
from tests.unit.qwen_server.serving import until

ROOT = Path(__file__).parents[3]
TARGET = "tests.unit.qwen_server.fork_jobs:start"
MEMORY = 64 << 20
LONG = 20.0


def environment() -> Mapping[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "server" / "src"), str(ROOT)])}


def make(executor: ThreadPoolExecutor, setup: bytes = b"set up") -> ForkServer:
    return ForkServer(TARGET, lambda: setup, executor=executor, environment=environment, memory=MEMORY)


@pytest.fixture
async def server() -> AsyncIterator[ForkServer]:
    with ThreadPoolExecutor(1) as executor:
        made = make(executor)
        yield made
        made.close()


async def test_jobs_run_beside_each_other_in_processes_of_their_own(server: ForkServer) -> None:
    assert await server.run("äh".encode(), LONG) == "set up äh".encode()
    pids = await asyncio.gather(*(server.run(b"pid", LONG) for _ in range(5)))
    assert len(set(pids)) == 5
    large = b"x" * (1 << 20)
    assert await server.run(large, LONG) == b"set up " + large


async def test_a_job_that_takes_too_long_is_killed(server: ForkServer) -> None:
    await server.launch()
    with pytest.raises(JobTimeoutError) as caught:
        await server.run(b"spin 60", 1.0)
    spun = caught.value.used
    with pytest.raises(JobTimeoutError) as caught:
        await server.run(b"sleep 60", 0.5)
    assert caught.value.used < spun / 2
    await until(lambda: len(server.processes()) == 1)


async def test_a_job_ends_with_the_request_that_waits_for_it(server: ForkServer) -> None:
    await server.launch()
    waiting = asyncio.create_task(server.run(b"spin 60", LONG))
    await until(lambda: len(server.processes()) == 2)
    waiting.cancel()
    await until(lambda: len(server.processes()) == 1)
    assert await server.run(b"next", LONG) == b"set up next"


@pytest.mark.parametrize("job", [b"crash", b"fill 1000000000"])
async def test_a_job_that_dies_takes_nothing_with_it(server: ForkServer, job: bytes) -> None:
    with pytest.raises(JobDiedError):
        await server.run(job, LONG)
    assert await server.run(b"fill 1000000", LONG) == b"1000000"


async def test_a_process_that_has_ended_is_started_again(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.launch()
    monkeypatch.setattr(fork_server, "_RELAUNCH_SECONDS", 60.0)
    pid = server.processes()[0]
    waiting = asyncio.create_task(server.run(b"sleep 60", LONG))
    await until(lambda: len(server.processes()) == 2)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ForkServerError):
        await waiting
    with pytest.raises(ForkServerError, match="a few seconds"):
        await server.run(b"early", LONG)
    monkeypatch.setattr(fork_server, "_RELAUNCH_SECONDS", 0.0)
    assert await server.run(b"later", LONG) == b"set up later"
    assert server.processes()[0] != pid


def test_a_job_ends_if_the_process_that_forked_it_has_ended_before_it_began() -> None:
    """The kernel tells a process of its parent's end only if it has asked before."""
    program = (
        "import os, socket\n"
        "from qwen_server.engine.vllm.grammars.forking import run_job\n"
        "run_job(socket.socketpair()[0], bytes.upper, 1 << 26, parent=os.getpid())"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, env=dict(environment()), timeout=20, check=False).returncode == -signal.SIGKILL


async def test_a_process_that_does_not_start_is_no_exit() -> None:
    with ThreadPoolExecutor(1) as executor:
        server = make(executor, b"broken")
        with pytest.raises(ForkServerError):
            await server.run(b"job", LONG)
        assert server.processes() == []


async def test_the_event_loop_turns_meanwhile(server: ForkServer) -> None:
    work = [asyncio.create_task(server.run(b"spin 1", LONG)) for _ in range(2)]
    longest, last = 0.0, time.monotonic()
    while not all(each.done() for each in work):
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < 0.9  # two busy processes share the machine's cores with this one


async def test_a_process_that_has_done_the_imports_offers_a_fork(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its open files are not the fork's, and it ends with the process."""
    with server.socket_for_fork() as control:
        program = (
            f"import time\nfrom qwen_server.engine.vllm.grammars.forking import serve_in_fork\n"
            f"serve_in_fork({control.fileno()})\ntime.sleep(60)"
        )
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes milliseconds
            command, env=dict(environment()), pass_fds=[control.fileno()], stdout=subprocess.PIPE
        )
    with process:
        assert await server.run(b"job", LONG) == b"set up job"
        pid = server.processes()[0]
        await until(lambda: descendants(process.pid) == [pid])
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == b""
    await until(lambda: not Path(f"/proc/{pid}").exists() or pid not in descendants())
    monkeypatch.setattr(fork_server, "_RELAUNCH_SECONDS", 0.0)
    with pytest.raises(ForkServerError):
        await server.run(b"job", LONG)
    assert await server.run(b"again", LONG) == b"set up again"


def test_nothing_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from tests.unit.qwen_server.test_fork_server import make\n"
        "async def main():\n"
        "    await make(ThreadPoolExecutor(1)).run(b'sleep 60', 60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=dict(environment()), cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while len(below := descendants(process.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < deadline
        time.sleep(0.05)
