# ruff: noqa: N802, N815 (the names are NVML's)
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_server.observe.gpu import GpuMonitor, GpuReading, NvmlReader
from qwen_server.observe.visible_gpus import visible_devices

GIB = 1024**3


class NvmlError(Exception):
    """What pynvml raises."""


class FakeNvml:
    """NVML with two GPUs; `missing` names the calls that a card does not support."""

    NVMLError = NvmlError
    NVML_SUCCESS = 0
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, *missing: str) -> None:
        self.missing = missing
        self.used = [8 * GIB, 9 * GIB]
        self.ecc = [3, 0]
        self.recovery = 0
        self.xids: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        if name in object.__getattribute__(self, "missing"):

            def unsupported(*_: Any) -> None:
                raise NvmlError(name)

            return unsupported
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return SimpleNamespace(domain=0, bus=handle, device=0)

    def nvmlDeviceGetMigMode(self, *_: Any) -> None:
        raise NvmlError("not supported")

    def nvmlDeviceIsMigDeviceHandle(self, *_: Any) -> Any:
        return SimpleNamespace(value=0)

    def nvmlDeviceGetGpuInstanceId(self, *_: Any) -> None:
        raise NvmlError("not supported")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=self.used[handle], total=10 * GIB)

    def nvmlDeviceGetTemperature(self, handle: int, _: int) -> int:
        return 60 + handle

    def nvmlDeviceGetName(self, _: int) -> bytes:
        return b"NVIDIA GeForce RTX 3080"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetTotalEccErrors(self, handle: int, *_: int) -> int:
        return self.ecc[handle]

    def nvmlDeviceGetFieldValues(self, *_: Any) -> list[Any]:
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=self.recovery))]

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, *_: Any) -> None: ...

    def nvmlEventSetWait_v2(self, *_: Any) -> Any:
        if not self.xids:
            raise NvmlError("timeout")
        return SimpleNamespace(eventData=self.xids.pop())


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # else CUDA would be asked


def test_memory_is_summed_over_the_engines_devices() -> None:
    reading = NvmlReader(FakeNvml(), 2).read()
    assert (reading.name, reading.allocated_gb, reading.total_gb, reading.free_gb) == (
        "NVIDIA GeForce RTX 3080",
        17.0,
        20.0,
        3.0,
    )
    assert (reading.utilization_percent, reading.temperature, reading.faults) == (85.0, 61.0, ())
    assert reading.uuids == ("GPU-0", "GPU-1")
    assert NvmlReader(FakeNvml(), 1).read().total_gb == 10.0


def test_the_specifications_gpu_numbers() -> None:
    reading = GpuReading("NVIDIA GeForce RTX 3080", allocated=int(7.64 * GIB), total=int(9.64 * GIB))
    assert (reading.allocated_gb, reading.total_gb, reading.free_gb, reading.utilization_percent) == (
        7.64,
        9.64,
        2.0,
        79.3,
    )


@pytest.mark.parametrize(
    "missing",
    [
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetFieldValues",
        "nvmlEventSetCreate",
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
    ],
)
def test_what_a_card_does_not_support_is_left_out(missing: str) -> None:
    reading = NvmlReader(FakeNvml(missing), 2).read()
    assert reading.total_gb == 20.0
    assert reading.faults == ()


def test_broken_hardware_is_reported() -> None:
    nvml = FakeNvml()
    reader = NvmlReader(nvml, 2)
    assert reader.read().faults == ()
    nvml.ecc[0] = 5
    assert reader.read().faults == ("GPU 0: 2 uncorrected memory errors since the start",)
    nvml.ecc[0] = 3
    nvml.xids = [13, 79]
    assert reader.read().faults == ("Xid 79",)
    nvml.recovery = 1
    assert len(reader.read().faults) == 3


def test_errors_of_before_the_start_are_not_held_against_the_card() -> None:
    assert NvmlReader(FakeNvml(), 2).read().faults == ()


@pytest.mark.parametrize(
    ("variable", "devices"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-abc, 0", ["GPU-abc", 0]),
        ("0,-1,1", [0]),
        ("1,2,0", [1]),
        ("²", []),
        ("", []),
    ],
)
def test_visible_devices_are_cudas(variable: str | None, devices: list[int | str]) -> None:
    assert visible_devices(2, variable) == devices


def test_on_a_cpu_there_are_zeros() -> None:
    monitor = GpuMonitor.for_engine(device="cpu", count=1)
    monitor.start()
    monitor.refresh()
    reading = monitor.latest
    assert (reading.name, reading.allocated_gb, reading.total_gb, reading.utilization_percent) == ("cpu", 0.0, 0.0, 0.0)


def test_without_a_driver_a_cuda_server_still_answers() -> None:
    assert GpuMonitor.for_engine(device="cuda", count=1).latest == GpuReading()


def test_a_failed_reading_keeps_the_earlier_one() -> None:
    readings = iter([GpuReading("a", 1, 2)])
    monitor = GpuMonitor(lambda: next(readings))
    monitor.refresh()
    monitor.refresh()
    assert monitor.latest.name == "a"
