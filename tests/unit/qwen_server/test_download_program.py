"""The program `qwen-server download` as in a Job, and a server that finds no model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_hub import constants

from qwen_server.control.lifecycle import EXIT_CONFIGURATION, Lifecycle
from qwen_server.download import command
from qwen_server.download.failures import EXIT_TEMPORARY, Failure
from qwen_server.download.hugging_face import _size
from qwen_server.engine.base import NoModelError
from qwen_server.runner import Runner
from tests.unit.qwen_server.hub_mirror import FILES, REPOSITORY, WEIGHTS, Mirror, serve_mirror
from tests.unit.qwen_server.serving import IdleServer, make_settings
from tests.unit.qwen_server.test_download import CHUNK, FIRST, NEEDED

ROOT = Path(__file__).parents[3]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve_mirror() as running:
        yield running


class EngineWithoutModel:
    """An engine to which every failure of the hub looks the same."""

    async def start(self) -> None:
        raise NoModelError("Invalid repository ID or local directory specified")

    async def shutdown(self, drain_seconds: float) -> None:
        pass


class Program:
    """`python -m qwen_server download` with a mirror, as in a Job."""

    def __init__(self, folder: Path, url: str, *flags: str) -> None:
        self.termination_log = folder / "termination-log"
        self.termination_log.touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "QWEN_"))}
        environment |= {"PYTHONPATH": str(ROOT / "server/src"), "HF_ENDPOINT": url, "HF_HOME": str(folder / "cache")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qwen_server", "download", f"--termination-log={self.termination_log}", *flags],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        """The exit code and the log."""
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log


@pytest.fixture
def start(mirror: Mirror, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start_one(*flags: str) -> Program:
        programs.append(Program(tmp_path, mirror.url, "--host=127.0.0.1", "--port=0", *flags))
        return programs[-1]

    yield start_one
    for program in programs:
        program.process.kill()
        program.process.communicate()


def test_a_killed_program_is_continued_by_the_next(
    start: Callable[..., Program], mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files = {**FILES, FIRST: WEIGHTS * 24}
    mirror.chunk_seconds = 0.005
    blobs = tmp_path / "cache/hub/models--Qwen--Tiny/blobs"
    first = start(f"--model={REPOSITORY}")
    deadline = time.monotonic() + 30
    while not any(_size(path) >= CHUNK for path in blobs.glob("*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    mirror.chunk_seconds = 0.0
    second = start(f"--model={REPOSITORY}", "--revision=main")
    code, log = second.end()
    assert code == 0, log
    assert any(int(asked[len("bytes=") : -1]) >= CHUNK for asked in mirror.ranges())
    figures = json.loads(second.termination_log.read_text())
    assert figures["phase"] == "Complete"
    assert figures["downloadedBytes"] == figures["totalBytes"] == sum(len(mirror.files[name]) for name in NEEDED)


def test_the_cause_is_in_the_termination_message(start: Callable[..., Program]) -> None:
    program = start("--model=Qwen/Nothing")
    code, log = program.end()
    assert code == 78, log
    text = program.termination_log.read_text()
    assert text.startswith("the model cannot be downloaded: the hub does not have it (HTTP 404): ")
    assert json.loads(log.splitlines()[-1])["message"] == f"exit 78: {text}"


@pytest.mark.parametrize("model", ["builtin:news-classifier", "/models/qwen", "./qwen"])
def test_only_a_repository_can_be_downloaded(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, f"--model={model}") == (78, f"--model {model}: only a repository can be downloaded")


def test_what_may_go_away_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "download", lambda *_: Failure("the hub cannot be reached", permanent=False))
    code, text = ended(monkeypatch, f"--model={REPOSITORY}", "--host=127.0.0.1", "--port=0")
    assert (code, text) == (EXIT_TEMPORARY, "the model cannot be downloaded: the hub cannot be reached")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """How the command ends in this process."""

    def leave(settings: Any, code: int, text: str) -> None:
        raise SystemExit(code, text)

    monkeypatch.setattr(command, "_exit", leave)
    monkeypatch.setattr("qwen_server.observe.logs.configure", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    code, text = end.value.args
    return code, text


@pytest.mark.parametrize(
    ("model", "refusal", "told"),
    [
        (REPOSITORY, None, "the model cannot be served: Invalid repository ID"),
        (REPOSITORY, 401, "the model cannot be downloaded: the hub denies access (HTTP 401)"),
        ("Qwen/Nothing", None, "the model cannot be downloaded: the hub does not have it (HTTP 404)"),
        (REPOSITORY, "no hub", "the model cannot be downloaded: the hub cannot be reached"),
        ("/models/none", "no hub", "the model cannot be served: Invalid repository ID"),
    ],
)
async def test_a_server_that_found_no_model_says_why_the_hub_does_not_give_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, model: str, refusal: int | str | None, told: str
) -> None:
    if isinstance(refusal, int):
        mirror.refuse("", refusal)
    address = "http://127.0.0.1:1" if refusal == "no hub" else mirror.url
    monkeypatch.setattr(constants, "ENDPOINT", address)
    server, engine = cast("Any", IdleServer()), cast("Any", EngineWithoutModel())
    runner = Runner(make_settings(model=model), engine, Lifecycle(), server, is_stuck=lambda: False)
    ending = await runner.run(cast("Any", None))
    assert ending.code == EXIT_CONFIGURATION
    assert ending.cause.startswith(told)
