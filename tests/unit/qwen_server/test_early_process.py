"""The process that starts before its work is known: real processes, without vLLM."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import spawn
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_server.engine.base import EngineError
from qwen_server.engine.processes import descendants
from qwen_server.engine.vllm import engine as engine_module
from qwen_server.engine.vllm import environment
from qwen_server.engine.vllm.engine import VllmEngine
from qwen_server.engine.vllm.patches import early_core
from qwen_server.engine.vllm.patches.early_core import EarlyChild, EarlyContext
from tests.unit.qwen_server.serving import make_settings

SOURCE = Path(__file__).parents[3] / "server" / "src"
PRELOADED = "wave"  # a module that nothing else imports


def tell(path: Path, *_: Any) -> None:
    """The work: reports the state of the process and exits with a code."""
    found = {
        "pid": os.getpid(),
        "preloaded": PRELOADED in sys.modules,
        "group": os.getpgid(0),
        "variable": os.environ.get("OF_THE_PARENT"),
        "frozen": gc.get_freeze_count() > 0,
        "after": faulthandler.is_enabled(),
        "threads": getattr(sys.modules.get("torch"), "threads", None),
    }
    path.write_text(json.dumps(found))
    os._exit(7)


@pytest.fixture(autouse=True)
def _source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))


def start() -> EarlyChild:
    """A child. Not a fixture, because pytest changes the environment in between."""
    return EarlyChild("Core", [PRELOADED, "there.is.no.such.module"], after=["faulthandler:enable"])


def run(context: EarlyContext, path: Path, *more: Any) -> tuple[SpawnProcess, dict[str, Any]]:
    process = context.Process(target=tell, args=(path, *more), name="Core")
    process.start()
    process.join(60)
    assert process.exitcode == 7
    return process, json.loads(path.read_text())


def test_the_first_process_runs_in_the_child_that_imported_meanwhile(tmp_path: Path) -> None:
    child = start()
    context = EarlyContext(child)
    process, found = run(context, tmp_path / "first")
    assert process.pid == found["pid"] == found["group"] == child.pid
    assert found["preloaded"]
    assert found["after"]
    assert found["frozen"]  # each collection while the model loads would look at all imports
    _, second = run(context, tmp_path / "second")
    assert second["pid"] != child.pid
    assert not second["preloaded"]


def test_a_changed_environment_restarts_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start()
    monkeypatch.setenv("OF_THE_PARENT", "changed")
    _, found = run(EarlyContext(child), tmp_path / "found")
    assert (found["pid"], found["variable"], found["preloaded"]) == (child.pid, "changed", False)


def test_what_is_read_late_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start()
    monkeypatch.setenv("VLLM_DISABLE_SHARED_EXPERTS_STREAM", "1")
    _, found = run(EarlyContext(child), tmp_path / "found")
    assert found["preloaded"]


def test_torch_gets_the_threads_that_vllm_chooses_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, vLLM does so for the engine core."""
    threads = "threads = 16\ndef set_num_threads(number):\n    global threads\n    threads = number\n"
    (tmp_path / "torch.py").write_text(threads)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(SOURCE)]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    child = EarlyChild("Core", [PRELOADED, "torch"])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("VLLM_OMP_NUM_THREADS_SET_BY_VLLM", "1")
    _, found = run(EarlyContext(child), tmp_path / "found")
    assert (found["pid"], found["preloaded"], found["threads"]) == (child.pid, True, 3)


@pytest.mark.parametrize("number", ["4,2", "0", ""])
def test_torch_keeps_its_threads_if_there_is_no_number_for_it(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    torch = SimpleNamespace(set_num_threads=lambda _: pytest.fail("a number that torch does not take"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("OMP_NUM_THREADS", number)
    early_core._set_threads("3")


def killed(child: EarlyChild) -> None:
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def nothing(_: EarlyChild) -> None:
    """Leaves the child unchanged."""


@pytest.mark.parametrize(("event", "sends_a_file"), [(killed, False), (nothing, True)])
def test_a_child_that_cannot_be_used_is_replaced(
    tmp_path: Path, event: Callable[[EarlyChild], None], sends_a_file: bool
) -> None:
    child = start()
    event(child)
    context = EarlyContext(child)
    more = context.Pipe() if sends_a_file else ()
    _, found = run(context, tmp_path / "found", *more)
    assert found["pid"] != child.pid
    assert child.pid not in descendants()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_child_that_nobody_takes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    child = start()
    assert not gone(child.pid)
    monkeypatch.setattr(spawn, "get_executable", lambda: "/another/python")
    assert not child.take()
    child.discard()
    assert gone(child.pid)
    child.discard()  # does nothing: the files may belong to others by now


def test_a_child_that_works_is_not_ended(tmp_path: Path) -> None:
    child = start()
    process, _ = run(EarlyContext(child), tmp_path / "found")
    assert child.works
    child.discard()
    assert process.exitcode == 7


async def test_a_start_that_fails_before_the_core_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[EarlyChild] = []

    def early(name: str, *_: Any, **__: Any) -> EarlyChild:
        children.append(EarlyChild(name, []))
        return children[0]

    def fail(*_: Any) -> None:
        raise EngineError("vLLM's arguments (after --): no such flag")

    monkeypatch.setattr(engine_module, "EarlyChild", early)
    monkeypatch.setattr(environment, "prepare", lambda *_: None)
    monkeypatch.setattr(VllmEngine, "_build", fail)
    engine = VllmEngine(make_settings())
    with pytest.raises(EngineError, match="no such flag"):
        await engine.start()
    assert [gone(child.pid) for child in children] == [True]
    await engine.shutdown(0)


def test_a_child_that_is_not_needed_ends_with_its_parent() -> None:
    program = (
        "import sys; from qwen_server.engine.vllm.patches.early_core import EarlyChild;"
        "print(EarlyChild('Core', []).pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline, "the child outlived its parent"
            time.sleep(0.02)
