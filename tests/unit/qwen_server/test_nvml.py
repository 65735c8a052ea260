"""The GPU's figures at the boundary to C: pynvml loads a library with the devices of the test."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from qwen_server.observe import visible_gpus
from qwen_server.observe.gpu import GpuMonitor, GpuReading, NvmlReader
from qwen_server.observe.memory import gpu_memory
from tests.unit.qwen_server.nvml_library import GIB, NVML, ScriptedDriver, build, cuda_answers, uuid_of
from tests.unit.qwen_server.serving import serve, until

FIRST, SECOND, THIRD = uuid_of(0xA), uuid_of(0xB), uuid_of(0xC)
PART, OTHER_PART = uuid_of(0xD, "MIG"), uuid_of(0xE, "MIG")
SILENT = "the GPU driver has not answered"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDriver]:
    path = str(libraries / NVML)

    def load(name: str) -> ctypes.CDLL:
        assert name == NVML
        return ctypes.CDLL(path)

    # A library that the loader finds by its name would stay in this process for other tests.
    monkeypatch.setattr(pynvml, "CDLL", load)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))  # for the process that asks CUDA
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_ANSWERS"):
        monkeypatch.delenv(name, raising=False)
    scripted = ScriptedDriver(ctypes.CDLL(path))
    yield scripted
    scripted.state.hangs = 0


@pytest.fixture
def three(driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch) -> ScriptedDriver:
    """Three GPUs. By PCI address, the second is the first. CUDA must not be asked."""
    driver.add(FIRST, bus=0x41)
    driver.add(SECOND, bus=0x01)
    driver.add(THIRD, bus=0x81)
    monkeypatch.setattr(visible_gpus, "cuda_uuids", lambda: pytest.fail("there is nothing to ask"))
    return driver


@pytest.fixture
def divided(driver: ScriptedDriver) -> ScriptedDriver:
    """A GPU that is divided into two MIG devices."""
    driver.add(FIRST, mig=1, total=80 * GIB, used=50 * GIB, temperature=71, ecc=0)
    driver.add(PART, board=0, instance=3, total=20 * GIB, used=4 * GIB, name=b"NVIDIA H200 MIG 1g.20gb")
    driver.add(OTHER_PART, board=0, instance=5, total=40 * GIB, used=30 * GIB)
    return driver


def read(count: int) -> GpuReading:
    return NvmlReader(pynvml, count).read()


def test_memory_is_summed_and_what_the_driver_reserves_is_not_free(driver: ScriptedDriver) -> None:
    driver.add(FIRST, used=7 * GIB, reserved=1 * GIB, temperature=61)
    driver.add(SECOND, used=2 * GIB, temperature=64)
    reading = read(2)
    assert (reading.name, reading.total_gb, reading.allocated_gb, reading.free_gb) == ("NVIDIA H200", 20, 10, 10)
    assert (reading.utilization_percent, reading.temperature, reading.faults) == (50.0, 64.0, ())
    assert reading.uuids == (FIRST, SECOND)


@pytest.mark.parametrize(
    ("variable", "count", "uuids"),
    [
        (None, 1, (SECOND,)),
        ("0", 1, (SECOND,)),
        ("2, 0", 2, (THIRD, SECOND)),
        ("1,3,0", 3, (FIRST,)),
        (f"{THIRD},{FIRST}", 2, (THIRD, FIRST)),
        ("GPU-0000000c,0", 2, (THIRD, SECOND)),
        ("GPU-0000000", 1, ()),
        ("GPU-nowhere,0", 2, ()),
        ("-1", 1, ()),
        ("", 1, ()),
    ],
)
def test_cudas_devices_are_found_by_pci_address_and_uuid(
    three: ScriptedDriver, monkeypatch: pytest.MonkeyPatch, variable: str | None, count: int, uuids: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert read(count).uuids == uuids


@pytest.mark.parametrize(
    ("variable", "count", "uuids"),
    [(None, 3, (SECOND, FIRST, THIRD)), ("2,1,0", 3, (THIRD, FIRST, SECOND)), (FIRST, 1, (FIRST,)), ("", 1, ())],
)
def test_cuda_is_not_asked_what_is_clear_without_it(
    three: ScriptedDriver, monkeypatch: pytest.MonkeyPatch, variable: str | None, count: int, uuids: tuple[str, ...]
) -> None:
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert read(count).uuids == uuids


@pytest.mark.parametrize("variable", [None, "0,1"])
def test_cuda_says_which_gpus_come_first_in_its_own_order(
    driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    for uuid in (FIRST, SECOND, THIRD):
        driver.add(uuid)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setenv("CUDA_ANSWERS", cuda_answers(THIRD, FIRST, SECOND))
    assert read(2).uuids == (THIRD, FIRST)


@pytest.mark.parametrize("answers", ["", "hang"])
def test_without_an_answer_of_cuda_the_order_is_that_of_the_pci_addresses(
    driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    driver.add(FIRST, bus=2)
    driver.add(SECOND, bus=1)
    monkeypatch.setenv("CUDA_ANSWERS", answers)
    monkeypatch.setattr("qwen_server.observe.cuda_order._SECONDS", 0.5)
    assert read(1).uuids == (SECOND,)


def test_a_mig_device_has_memory_of_its_own_and_the_health_of_its_gpu(
    divided: ScriptedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", PART)
    reading = read(1)
    assert (reading.name, reading.total_gb, reading.allocated_gb) == ("NVIDIA H200 MIG 1g.20gb", 20, 4)
    assert (reading.temperature, reading.uuids, reading.faults) == (71.0, (FIRST,), ())


@pytest.mark.parametrize("variable", [None, "0", FIRST])
@pytest.mark.parametrize(("answers", "total"), [(cuda_answers(OTHER_PART), 40), ("", 20)])
def test_of_a_divided_gpu_cuda_shows_one_mig_device(
    divided: ScriptedDriver, monkeypatch: pytest.MonkeyPatch, variable: str | None, answers: str, total: int
) -> None:
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setenv("CUDA_ANSWERS", answers)
    assert read(1).total_gb == total


def test_an_error_in_another_mig_instance_is_not_ours(divided: ScriptedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", PART)
    reader = NvmlReader(pynvml, 1)
    divided.fail(0, xid=95, instance=5)
    assert reader.read().faults == ()
    divided.fail(0, xid=95, instance=3)
    divided.fail(0, xid=79)
    assert reader.read().faults == ("Xid 79", "Xid 95")


def test_only_xid_errors_that_need_a_reset_are_faults(driver: ScriptedDriver) -> None:
    driver.add(FIRST)
    reader = NvmlReader(pynvml, 1)
    driver.fail(0, xid=13)
    driver.fail(0, xid=31)
    assert reader.read().faults == ()
    driver.fail(0, xid=79)
    assert reader.read().faults == ("Xid 79",)
    assert reader.read().faults == ("Xid 79",)


def test_a_gpu_that_reports_no_events_does_not_silence_the_others(driver: ScriptedDriver) -> None:
    driver.add(FIRST, deaf=1)
    driver.add(SECOND)
    reader = NvmlReader(pynvml, 2)
    driver.fail(1, xid=48)
    driver.fail(0, xid=79)
    assert reader.read().faults == ("Xid 48",)


def test_memory_errors_and_wishes_of_the_driver_are_faults(driver: ScriptedDriver) -> None:
    first = driver.add(FIRST, ecc=3)
    second = driver.add(SECOND, recovery=-1)
    reader = NvmlReader(pynvml, 2)
    assert reader.read().faults == ()
    first.ecc = 5
    assert reader.read().faults == ("GPU 0: 2 uncorrected memory errors since the start",)
    first.ecc, second.recovery = 3, 1
    assert reader.read().faults == ("GPU 1: the driver asks for a recovery action",)


@pytest.mark.parametrize(("error", "text"), [(15, "GPU is lost"), (16, "GPU requires restart")])
def test_a_gpu_that_is_lost_is_a_fault(driver: ScriptedDriver, error: int, text: str) -> None:
    first = driver.add(FIRST, temperature=80)
    driver.add(SECOND)
    reader = NvmlReader(pynvml, 2)
    first.error = error
    reading = reader.read()
    assert reading.faults == (f"the driver reports: {text}",)
    assert (reading.total_gb, reading.temperature, reading.uuids) == (10, 40.0, (SECOND,))
    first.error = 0
    assert reader.read().faults == ()


def test_a_gpu_of_another_container_is_left_out(driver: ScriptedDriver) -> None:
    first = driver.add(FIRST, error=pynvml.NVML_ERROR_NO_PERMISSION)
    second = driver.add(SECOND)
    assert read(1).uuids == (SECOND,)
    first.error = second.error = pynvml.NVML_ERROR_NO_PERMISSION
    with pytest.raises(pynvml.NVMLError_NoPermission):
        read(1)


def test_a_driver_that_fails_at_first_is_asked_again(driver: ScriptedDriver, caplog: pytest.LogCaptureFixture) -> None:
    driver.add(FIRST)
    driver.state.error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    monitor = GpuMonitor.for_engine(device="cuda", count=1)
    monitor.refresh()
    monitor.refresh()
    assert (monitor.latest, driver.state.inits) == (GpuReading(), 2)
    assert caplog.text.count("cannot read the GPUs") == 1
    driver.state.error = 0
    monitor.refresh()
    assert monitor.latest.uuids == (FIRST,)


async def test_a_driver_that_hangs_holds_up_neither_the_start_nor_requests(
    driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver.add(FIRST, used=4 * GIB)
    driver.state.hangs = 1
    monkeypatch.setattr("qwen_server.observe.gpu._REFRESH_SECONDS", 0.02)
    monkeypatch.setattr("qwen_server.observe.gpu._SILENT_SECONDS", 0.1)
    begin = time.monotonic()
    async with serve(device="cuda", ready=False) as served:
        gpu, state = served.service.gpu, driver.state

        def warned() -> int:
            served.service.tick()
            return caplog.text.count(SILENT)

        served.engine.info = dataclasses.replace(served.engine.info, device="cuda")
        await served.engine.start()
        served.lifecycle.mark_ready()
        await until(lambda: state.inits)
        assert (await served.chat()).status_code == 200
        assert time.monotonic() - begin < 5
        await until(lambda: warned() == 1)
        assert (await served.metrics())["gpu"]["total_gb"] == 0
        state.hangs = 0
        await until(lambda: gpu.latest.allocated_gb == 4)
        state.hangs = 1  # later, in a reading
        await until(lambda: warned() == 2)
        assert (await served.metrics())["gpu"]["allocated_gb"] == 4
        assert warned() == 2


PROGRAM = f"""
import ctypes, sys, time
from qwen_server.observe.gpu import GpuMonitor
from tests.unit.qwen_server.nvml_library import NVML, ScriptedDriver

driver = ScriptedDriver(ctypes.CDLL(NVML))
driver.add({FIRST!r})
driver.state.hangs = int(sys.argv[1])
monitor = GpuMonitor.for_engine(device="cuda", count=1)
monitor.start()
while not (driver.state.inits if driver.state.hangs else monitor.latest.total):
    time.sleep(0.01)
print(monitor.latest.total_gb)
"""


@pytest.mark.parametrize(("hangs", "total"), [("0", "10.0"), ("1", "0.0")])
def test_the_library_of_the_system_is_loaded_and_a_hang_does_not_hold_up_the_end(
    libraries: Path, hangs: str, total: str
) -> None:
    left_out = {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    env |= {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, hangs]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == total


def test_the_memory_of_gpus_that_are_alike_needs_no_answer_of_cuda(three: ScriptedDriver) -> None:
    assert (gpu_memory(1), gpu_memory(3), gpu_memory(4)) == (10 * GIB, 10 * GIB, None)


def test_the_memory_of_a_mig_device_is_its_own(divided: ScriptedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", OTHER_PART)
    assert gpu_memory(1) == 40 * GIB


def test_the_memory_of_different_gpus_is_that_of_the_largest_of_the_engine(
    driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uuid, size in ((FIRST, 10), (SECOND, 20), (THIRD, 80)):
        driver.add(uuid, total=size * GIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{FIRST},{SECOND}")
    assert (gpu_memory(1), gpu_memory(2), gpu_memory(3)) == (10 * GIB, 20 * GIB, None)


def test_the_memory_is_not_known_if_the_driver_fails_or_hangs(
    driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.add(FIRST)
    driver.state.error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert gpu_memory(1) is None
    driver.state.error, driver.state.hangs = 0, 1
    monkeypatch.setattr("qwen_server.observe.memory._NVML_SECONDS", 0.1)
    assert gpu_memory(1) is None
