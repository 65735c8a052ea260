"""Reads GPU memory, temperature and faults through NVML. CUDA is never initialized here.

NVML calls take milliseconds and may block on a broken driver. They therefore run in a thread, and
requests use the latest reading. Without a driver, or on a CPU, the values are 0.0 and the name is
`cpu`, also until the driver first answers.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from qwen_server.observe.visible_gpus import board_of, visible_handles

_log = logging.getLogger(__name__)
_GIB = 1024**3
_REFRESH_SECONDS = 2.0
_SILENT_SECONDS = 30.0
# Xid errors that only a reset of the GPU or a reboot clears. All others affect a single process.
_FATAL_XIDS = frozenset({46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 140, 143, 158, 160})
# NVML's errors for a GPU that fell off the bus (GPU_IS_LOST) or waits for a reset (RESET_REQUIRED).
_LOST = frozenset({15, 16})
_WHOLE_GPU = 0xFFFFFFFF  # the instance of an event that is not of a MIG device

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One reading of the engine's GPUs.

    `allocated` and `total` are sums in bytes. `temperature` is that of the hottest GPU, in degrees
    Celsius. `faults` has a description of each fault, `uuids` the UUID of each GPU. Of a MIG
    device, memory is its own, and all else that of the GPU that it is a part of.
    """

    name: str = "cpu"
    allocated: int = 0
    total: int = 0
    temperature: float | None = None
    faults: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()
    busy: float | None = None
    """The share of the time in which the GPUs computed, their mean, from 0 to 1."""

    @property
    def allocated_gb(self) -> float:
        return round(self.allocated / _GIB, 2)

    @property
    def total_gb(self) -> float:
        return round(self.total / _GIB, 2)

    @property
    def free_gb(self) -> float:
        return round((self.total - self.allocated) / _GIB, 2)

    @property
    def utilization_percent(self) -> float:
        """The share of the memory that is in use."""
        return round(100 * self.allocated / self.total, 1) if self.total else 0.0


class NvmlReader:
    """Reads the first `count` visible GPUs. Not thread-safe: one thread owns it."""

    def __init__(self, nvml: ModuleType | Any, count: int) -> None:
        self._nvml = nvml
        self._lost: set[str] = set()
        nvml.nvmlInit()
        self._handles = visible_handles(nvml, count)
        self._boards = [board_of(nvml, handle) for handle in self._handles]
        # None for a whole GPU.
        self._instances = {self._try(nvml.nvmlDeviceGetGpuInstanceId, handle) for handle in self._handles}
        self._ecc_at_start = [self._uncorrected(board) for board in self._boards]
        self._xids: set[int] = set()
        self._events = self._register()

    def read(self) -> GpuReading:
        """Returns a reading. It omits what a device does not support."""
        nvml = self._nvml
        self._lost.clear()
        memory = [info for handle in self._handles if (info := self._try(nvml.nvmlDeviceGetMemoryInfo, handle))]
        temperatures = [
            value
            for board in self._boards
            if (value := self._try(nvml.nvmlDeviceGetTemperature, board, nvml.NVML_TEMPERATURE_GPU)) is not None
        ]
        names = [self._text(self._try(nvml.nvmlDeviceGetName, handle)) for handle in self._handles]
        return GpuReading(
            name=next((name for name in names if name), "unknown GPU") if self._handles else "cpu",
            allocated=sum(info.used for info in memory),
            total=sum(info.total for info in memory),
            busy=self._busy(),
            temperature=float(max(temperatures)) if temperatures else None,
            faults=tuple(self._faults()),
            uuids=tuple(uuid for board in self._boards if (uuid := self._uuid(board))),
        )

    def _uuid(self, handle: Any) -> str:
        return self._text(self._try(self._nvml.nvmlDeviceGetUUID, handle))

    def _busy(self) -> float | None:
        """The mean of what each GPU reports. A MIG device reports none."""
        found = [share for handle in self._handles if (share := self._try(self._busy_of, handle)) is not None]
        return sum(found) / len(found) if found else None

    def _busy_of(self, handle: Any) -> float:
        return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)

    def _faults(self) -> list[str]:
        faults = [f"the driver reports: {text}" for text in sorted(self._lost)]
        for index, board in enumerate(self._boards):
            if self._needs_recovery(board):
                faults.append(f"GPU {index}: the driver asks for a recovery action")
            before, errors = self._ecc_at_start[index], self._uncorrected(board)
            if before is not None and errors is not None and errors > before:
                faults.append(f"GPU {index}: {errors - before} uncorrected memory errors since the start")
        self._collect_xids()
        faults.extend(f"Xid {xid}" for xid in sorted(self._xids & _FATAL_XIDS))
        return faults

    def _needs_recovery(self, handle: Any) -> bool:
        field = getattr(self._nvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        values = None if field is None else self._try(self._nvml.nvmlDeviceGetFieldValues, handle, [field])
        if not values or values[0].nvmlReturn != self._nvml.NVML_SUCCESS:
            return False
        return bool(values[0].value.uiVal != 0)

    def _uncorrected(self, handle: Any) -> int | None:
        nvml = self._nvml
        kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        errors = self._try(nvml.nvmlDeviceGetTotalEccErrors, handle, kind, since)
        return None if errors is None else int(errors)

    def _register(self) -> Any:
        """Subscribes to the Xid errors of each GPU whose driver reports them."""
        nvml = self._nvml
        events = self._try(nvml.nvmlEventSetCreate)
        if events:
            for board in self._boards:
                self._try(nvml.nvmlDeviceRegisterEvents, board, nvml.nvmlEventTypeXidCriticalError, events)
        return events

    def _collect_xids(self) -> None:
        for _ in range(16):
            event = self._events and self._try(self._nvml.nvmlEventSetWait_v2, self._events, 0)
            if not event:
                return
            # An error in another MIG instance of the GPU is not ours.
            if None in self._instances or event.gpuInstanceId in {_WHOLE_GPU, *self._instances}:
                self._xids.add(int(event.eventData))

    def _try(self, call: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return call(*arguments)
        except AttributeError:
            return None  # old bindings
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) in _LOST:
                self._lost.add(str(error))
            return None  # GeForce cards have no ECC, and old drivers no recovery action

    @staticmethod
    def _text(value: str | bytes | None) -> str:
        return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


class GpuMonitor:
    """Holds the latest reading of the engine's GPUs. A thread refreshes it every 2 s.

    `connect` returns the function that reads, or None without a driver. It is called in the thread,
    because it may block on a broken driver, and again as long as it fails.
    """

    def __init__(
        self,
        read: Callable[[], GpuReading] | None = None,
        connect: Callable[[], Callable[[], GpuReading] | None] | None = None,
    ) -> None:
        self._read = read
        self._connect = connect
        self._failing = False
        self._asked_at: float | None = None
        self._silent = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.latest = GpuReading()

    @classmethod
    def for_engine(cls, *, device: str, count: int) -> GpuMonitor:
        """Returns a monitor of the first `count` visible GPUs. On a CPU it reads nothing."""
        return cls(connect=None if device == "cpu" else functools.partial(_nvml, count))

    def start(self) -> None:
        """Starts the thread, if there is anything to read."""
        if (self._read or self._connect) and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gpu-monitor", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.refresh()
            self._stop.wait(_REFRESH_SECONDS)

    def refresh(self) -> None:
        """Takes a reading now. If that fails, the previous one stays."""
        self._asked_at = time.monotonic()
        try:
            if self._read is None and self._connect is not None:
                self._read = self._connect()
                self._connect = None
            if self._read is not None:
                self.latest = self._read()
            self._failing = False
        except Exception as error:  # noqa: BLE001 - a broken driver must not end the thread: it may recover
            if not self._failing:
                _log.warning("cannot read the GPUs, keeping the previous reading: %r", error)
            self._failing = True
        finally:
            self._asked_at = None
            self._silent = False

    def warn_if_silent(self) -> None:
        """Logs, once, that the driver has not answered for 30 s. Never blocks."""
        asked_at = self._asked_at
        if asked_at is None or self._silent or time.monotonic() - asked_at < _SILENT_SECONDS:
            return
        self._silent = True
        _log.warning("the GPU driver has not answered for %.0f s, keeping the previous reading", _SILENT_SECONDS)


def _nvml(count: int) -> Callable[[], GpuReading] | None:
    """Initializes NVML. Returns None if its bindings are not installed. Raises NVMLError."""
    try:
        import pynvml  # noqa: PLC0415 - not installed without GPU support
    except ImportError:
        return None
    return NvmlReader(pynvml, count).read


def device_count(tensor_parallel_size: int, pipeline_parallel_size: int) -> int:
    """Returns how many GPUs the engine uses."""
    return max(1, tensor_parallel_size) * max(1, pipeline_parallel_size)
