"""NVML and CUDA as shared libraries with the devices of a test, compiled from nvml_library.c.

The real pynvml loads them, so that tests reach down to the structures of C.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

GIB = 1024**3
NVML = "libnvidia-ml.so.1"
CUDA = "libcuda.so.1"
WHOLE_GPU = 0xFFFFFFFF
_NOT_A_PART = -1


class Device(ctypes.Structure):
    """A GPU, or a MIG device of the GPU number `board`."""

    _fields_ = (
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("board", ctypes.c_int),
        ("bus", ctypes.c_uint),
        ("total", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("temperature", ctypes.c_uint),
        ("ecc", ctypes.c_int64),
        ("recovery", ctypes.c_int),
        ("mig", ctypes.c_int),
        ("instance", ctypes.c_uint),
        ("deaf", ctypes.c_int),
        ("registered", ctypes.c_int),
        ("error", ctypes.c_int),
    )


class Event(ctypes.Structure):
    """An Xid error that the driver has not reported yet."""

    _fields_ = (("device", ctypes.c_int), ("instance", ctypes.c_uint), ("xid", ctypes.c_uint64))


class Driver(ctypes.Structure):
    """The state of the library."""

    _fields_ = (
        ("hangs", ctypes.c_int),
        ("inits", ctypes.c_int),
        ("error", ctypes.c_int),
        ("count", ctypes.c_int),
        ("pending", ctypes.c_int),
        ("devices", Device * 8),
        ("events", Event * 8),
    )


def build(folder: Path) -> Path:
    """Compiles the libraries. Returns the folder, for LD_LIBRARY_PATH."""
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", folder / NVML, source], check=True)
    (folder / CUDA).symlink_to(NVML)
    return folder


def uuid_of(number: int, kind: str = "GPU") -> str:
    """The UUID of a device, which begins with the number in hexadecimal."""
    return f"{kind}-{number:08x}-0000-4000-8000-000000000000"


def cuda_answers(*uuids: str) -> str:
    """The value of CUDA_ANSWERS with which the library of CUDA shows these devices."""
    return ",".join(uuid.partition("-")[2].replace("-", "") for uuid in uuids)


class ScriptedDriver:
    """The driver in a loaded library. It has no devices at first."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.state = Driver.in_dll(library, "driver")
        ctypes.memset(ctypes.addressof(self.state), 0, ctypes.sizeof(self.state))

    def add(self, uuid: str, **values: Any) -> Device:
        """Adds a device. Returns it, so that the test can change it.

        Without other values it is a GPU of 10 GiB in which nothing is used, without ECC.
        """
        number = self.state.count
        given: dict[str, Any] = {
            "uuid": uuid.encode(),
            "name": b"NVIDIA H200",
            "board": _NOT_A_PART,
            "bus": number,
            "total": 10 * GIB,
            "temperature": 40,
            "ecc": -1,
        }
        device: Device = self.state.devices[number]
        for name, value in (given | values).items():
            setattr(device, name, value)
        self.state.count = number + 1
        return device

    def fail(self, device: int, xid: int, instance: int = WHOLE_GPU) -> None:
        """Has the driver report an Xid error of the device with this number."""
        event = self.state.events[self.state.pending]
        event.device, event.instance, event.xid = device, instance, xid
        self.state.pending += 1
