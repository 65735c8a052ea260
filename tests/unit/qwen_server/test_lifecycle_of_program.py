"""The whole program with a scripted engine: signals, requested restarts, exit codes and causes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen_server.control.lifecycle import LAST_REQUEST_SECONDS
from tests.loopback import NO_TLS
from tests.unit.qwen_server.serving import events_of

ROOT = Path(__file__).parents[3]


class Program:
    """A running program; its output is kept."""

    def __init__(self, folder: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.termination_log = folder / "termination-log"
        self.termination_log.touch()
        self.podinfo = folder / "podinfo"
        self.podinfo.mkdir()
        self.alerts = folder / "alerts.json"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        command = [sys.executable, "-m", "tests.scripted_engine", "--host=127.0.0.1", f"--port={port}"]
        command += ["--model=scripted", "--device=cpu", f"--termination-log={self.termination_log}"]
        command += [f"--podinfo-dir={self.podinfo}", f"--alerts-file={self.alerts}", *flags]
        paths = os.pathsep.join([str(ROOT / "server" / "src"), str(ROOT)])
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stderr=output, env=os.environ | {"PYTHONPATH": paths} | (environment or {})
            )

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def health(self) -> str:
        try:
            return str(self.get("/health").json()["status"])
        except httpx.TransportError:
            return "refused"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20, verify=NO_TLS)

    def complete(self) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/completions", json={"prompt": "x"}, timeout=20, verify=NO_TLS)

    def client(self) -> httpx.Client:
        """A client that keeps its connection."""
        return httpx.Client(base_url=self.url, timeout=20, verify=NO_TLS)

    def stop_or_go(self) -> None:
        """Stops the engine or lets it go on: meanwhile, its requests do not end."""
        self.process.send_signal(signal.SIGUSR1)

    def until_ready(self) -> None:
        self.until(lambda: self.health() == "ok")

    def exit_code(self) -> int:
        return self.process.wait(timeout=20)

    def last_line(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.log.read_text().splitlines()[-1])
        return line


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start_one(*flags: str, **environment: str) -> Program:
        folder = tmp_path / str(len(programs))
        folder.mkdir()
        programs.append(Program(folder, *flags, environment=environment))
        return programs[-1]

    yield start_one
    for program in programs:
        program.process.kill()
        program.process.wait()


def chat(program: Program, script: dict[str, Any], **fields: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    """Sends a chat in a thread; the response is added to the list."""
    responses: list[httpx.Response] = []
    body = {"messages": [{"role": "user", "content": "@" + json.dumps(script)}]} | fields

    def send() -> None:
        responses.append(httpx.post(f"{program.url}/v1/chat/completions", json=body, timeout=20, verify=NO_TLS))

    thread = threading.Thread(target=send)
    thread.start()
    return thread, responses


def in_flight(program: Program) -> int:
    requests = program.get("/api/v1/metrics").json()["requests"]
    return int(requests["running"] + requests["waiting"])


def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(start: Callable[..., Program]) -> None:
    program = start("--max-concurrent-requests=1")
    program.until_ready()
    chats = [chat(program, {"tokens": 10, "delay": 0.08}) for _ in range(2)]
    program.until(lambda: in_flight(program) == 2)
    program.stop_or_go()
    program.process.send_signal(signal.SIGTERM)
    program.until(lambda: program.health() == "draining")
    refused = program.complete()
    assert refused.status_code == 503
    assert refused.headers["connection"] == "close"
    assert int(refused.headers["retry-after"]) >= 1
    assert program.get("/health/ready").status_code == 503
    assert program.get("/health/live").status_code == 200
    program.stop_or_go()
    for thread, responses in chats:
        thread.join(20)
        assert [response.status_code for response in responses] == [200]
    assert program.exit_code() == 0
    assert program.last_line()["message"] == "exit 0: received SIGTERM"
    assert not program.termination_log.read_text()


def test_a_kept_connection_gets_one_more_answer_after_sigterm(start: Callable[..., Program]) -> None:
    program = start()
    program.until_ready()
    with program.client() as client, program.client() as monitor:
        assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
        assert monitor.get("/health").status_code == 200  # keeps a connection, too, and is not waited for
        begun = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        program.until(lambda: program.health() == "draining")
        assert program.complete().status_code == 503
        last = client.post("/v1/completions", json={"prompt": "x"})
        assert last.status_code == 200
        assert last.headers["connection"] == "close"
        assert program.exit_code() == 0
        assert time.monotonic() - begun < LAST_REQUEST_SECONDS, "it waited although all clients had left"


@pytest.mark.parametrize(("number", "waits"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_an_idle_client_delays_the_exit_only_so_long(
    start: Callable[..., Program], number: signal.Signals, *, waits: bool
) -> None:
    program = start("--drain-timeout=3s")
    program.until_ready()
    with program.client() as client:
        assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
        begun = time.monotonic()
        program.process.send_signal(number)
        assert program.exit_code() == 0
        seconds = time.monotonic() - begun
    assert (seconds > 2.8) == waits
    assert seconds < 12


def test_requests_cut_off_at_the_drain_deadline_are_reported(start: Callable[..., Program]) -> None:
    program = start("--drain-timeout=500ms", "--max-concurrent-requests=2")
    program.until_ready()
    script = {"tokens": 100, "delay": 0.1}
    streamed = chat(program, script, stream=True)
    program.until(lambda: in_flight(program) == 1)
    others = [chat(program, script) for _ in range(2)]  # one runs, one waits
    program.until(lambda: in_flight(program) == 3)
    begun = time.monotonic()
    program.process.send_signal(signal.SIGTERM)
    assert program.exit_code() == 0
    assert time.monotonic() - begun < 10
    for thread, responses in others:
        thread.join(20)
        assert [response.status_code for response in responses] == [503]
        assert set(responses[0].json()) == {"error", "queue_size", "max_queue_size"}
        assert int(responses[0].headers["retry-after"]) >= 1
    thread, responses = streamed
    thread.join(20)
    assert "error" in events_of(responses[0].text)[-1]
    assert "Traceback" not in program.log.read_text()


def test_a_second_signal_ends_the_drain(start: Callable[..., Program]) -> None:
    program = start()
    program.until_ready()
    thread, _ = chat(program, {"tokens": 200, "delay": 0.1})
    program.until(lambda: in_flight(program) == 1)
    program.process.send_signal(signal.SIGINT)
    program.until(lambda: program.health() == "draining")
    program.process.send_signal(signal.SIGINT)
    assert program.exit_code() == 0
    thread.join(20)


def test_a_signal_while_the_model_loads_ends_at_once(start: Callable[..., Program]) -> None:
    program = start(SCRIPTED_START_SECONDS="60")
    program.until(lambda: program.health() == "starting")
    program.process.send_signal(signal.SIGTERM)
    assert program.exit_code() == 0
    assert "while the model was loading" in program.last_line()["message"]


def test_a_changed_annotation_restarts_in_place(start: Callable[..., Program]) -> None:
    program = start()
    program.until_ready()
    thread, responses = chat(program, {"tokens": 20, "delay": 0.05})
    program.until(lambda: in_flight(program) == 1)
    program.stop_or_go()
    (program.podinfo / "annotations").write_text('a="b"\nqwen-vllm.io/restart="42"\n')
    program.until(lambda: program.health() == "draining")
    program.stop_or_go()
    assert program.exit_code() == 0
    thread.join(20)
    assert responses[0].status_code == 200
    assert "restart 42" in program.last_line()["message"]


def test_a_restart_does_not_wait_for_a_hung_engine(start: Callable[..., Program]) -> None:
    program = start()
    program.alerts.write_text(json.dumps({"alerts": [{"name": "EngineUnresponsive", "threshold": 0.5}]}))
    program.until_ready()
    thread, _ = chat(program, {"tokens": 200, "delay": 0.1})
    program.until(lambda: in_flight(program) == 1)
    program.stop_or_go()
    program.until(lambda: program.health() == "unhealthy")
    (program.podinfo / "annotations").write_text('qwen-vllm.io/restart="1"\n')
    begun = time.monotonic()
    assert program.exit_code() == 0
    assert time.monotonic() - begun < 8  # far below the drain's 60 s
    thread.join(20)


def test_the_engines_death_exits_70_with_the_cause(start: Callable[..., Program]) -> None:
    program = start("--engine-restarts=0")
    program.until_ready()
    thread, responses = chat(program, {"tokens": 200, "delay": 0.1})
    program.until(lambda: in_flight(program) == 1)
    program.process.send_signal(signal.SIGUSR2)
    assert program.exit_code() == 70
    cause = "CUDA error: an illegal memory access was encountered"
    assert cause in program.last_line()["message"]
    assert cause in program.termination_log.read_text()
    thread.join(20)
    assert [(response.status_code, cause in response.text) for response in responses] == [(500, True)]


def test_a_model_that_cannot_be_loaded_exits_78_with_the_cause(start: Callable[..., Program]) -> None:
    program = start(SCRIPTED_START_FAILURE="weights are missing: model-00002.safetensors")
    assert program.exit_code() == 78
    assert "model-00002.safetensors" in program.last_line()["message"]
    assert "model-00002.safetensors" in program.termination_log.read_text()


def test_a_taken_port_exits_78_and_names_the_flag(start: Callable[..., Program]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program = start(f"--port={taken.getsockname()[1]}")
        assert program.exit_code() == 78
    assert "--port" in program.last_line()["message"]
    assert "in use" in program.termination_log.read_text()


def test_a_bad_flag_exits_78(start: Callable[..., Program]) -> None:
    program = start("--queue-timeout=soon")
    assert program.exit_code() == 78
    assert "--queue-timeout" in program.last_line()["message"]


def test_an_adapter_that_is_not_there_exits_78_before_the_engine_starts(start: Callable[..., Program]) -> None:
    program = start("--lora-modules=one=/nowhere", SCRIPTED_START_SECONDS="60")
    assert program.exit_code() == 78
    assert "--lora-modules one=/nowhere: No such file" in program.last_line()["message"]
    assert "--lora-modules one=/nowhere: No such file" in program.termination_log.read_text()


def test_an_unknown_host_exits_78_and_names_the_flag(start: Callable[..., Program]) -> None:
    program = start("--host=no-such-host.invalid")
    assert program.exit_code() == 78
    assert "--host no-such-host.invalid" in program.last_line()["message"]
    assert "Unknown error" not in program.termination_log.read_text()


def test_without_a_temporary_folder_it_exits_78_and_says_so() -> None:
    program = """
import sys, tempfile
def refuse(): raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
tempfile.gettempdir = tempfile._get_default_tempdir = refuse
from qwen_server.runner import main
main(["--host=127.0.0.1", "--port=0", "--model=any/name", "--termination-log=/nowhere/log"])
"""
    paths = os.pathsep.join([str(ROOT / "server" / "src"), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 78
    assert "Traceback" not in ended.stderr
    last = json.loads(ended.stderr.splitlines()[-1])
    assert "cannot create a temporary folder" in last["message"]
    assert "TMPDIR" in last["message"]


def test_an_engine_that_dies_is_restarted_and_beyond_the_budget_the_program_exits_70(
    start: Callable[..., Program],
) -> None:
    program = start("--engine-restarts=1", SCRIPTED_RESTART_SECONDS="1.5")
    program.until_ready()
    thread, responses = chat(program, {"tokens": 100, "delay": 0.02})
    program.until(lambda: in_flight(program) == 1)
    program.process.send_signal(signal.SIGUSR2)
    program.until(lambda: program.health() == "restarting")
    thread.join(20)
    assert [response.status_code for response in responses] == [200]
    program.until_ready()
    assert "the engine is back after" in program.log.read_text()
    program.process.send_signal(signal.SIGUSR2)
    assert program.exit_code() == 70
    cause = "CUDA error: an illegal memory access was encountered (1 restarts within 600 s are the limit)"
    assert cause in program.last_line()["message"]
    assert cause in program.termination_log.read_text()


def test_a_restart_that_fails_ends_the_program_with_its_cause(start: Callable[..., Program]) -> None:
    program = start("--engine-restarts=2", SCRIPTED_RESTART_FAILURES="9")
    program.until_ready()
    program.process.send_signal(signal.SIGUSR2)
    assert program.exit_code() == 70
    assert program.log.read_text().count("the restart of the engine failed: the weights are gone") == 2


def test_a_death_while_draining_is_a_pause_for_accepted_requests(start: Callable[..., Program]) -> None:
    program = start(SCRIPTED_RESTART_SECONDS="0.3")
    program.until_ready()
    thread, responses = chat(program, {"tokens": 60, "delay": 0.02})
    program.until(lambda: in_flight(program) == 1)
    program.stop_or_go()
    program.process.send_signal(signal.SIGTERM)
    program.until(lambda: program.health() == "draining")
    program.process.send_signal(signal.SIGUSR2)
    assert program.exit_code() == 0
    thread.join(20)
    assert [response.status_code for response in responses] == [200]


def test_a_stop_during_a_restart_drains_and_exits(start: Callable[..., Program]) -> None:
    program = start("--drain-timeout=1s", SCRIPTED_RESTART_SECONDS="30")
    program.until_ready()
    thread, responses = chat(program, {"tokens": 60, "delay": 0.1})
    program.until(lambda: in_flight(program) == 1)
    program.process.send_signal(signal.SIGUSR2)
    program.until(lambda: program.health() == "restarting")
    program.process.send_signal(signal.SIGTERM)
    assert program.exit_code() == 0
    thread.join(20)
    assert [response.status_code for response in responses] == [503]


def test_a_requested_restart_of_the_engine_beyond_the_budget_restarts_the_process(
    start: Callable[..., Program],
) -> None:
    program = start("--engine-restarts=0")
    program.until_ready()
    (program.podinfo / "annotations").write_text('qwen-vllm.io/restart-engine="42"\n')
    assert program.exit_code() == 0
    assert "restart 42" in program.last_line()["message"]
