"""Asks CUDA for the UUIDs of the GPUs that it shows, in its own order.

CUDA must never be initialized in the server, so a short-lived process asks: this file, run as a
program. It creates no context and uses no GPU memory.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import uuid

_SECONDS = 30.0


def cuda_uuids() -> list[str] | None:
    """Returns the UUIDs without the prefix `GPU-` or `MIG-`.

    It may block for 30 s. Returns None if CUDA is missing, fails, or does not answer in this time.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        answer, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # nothing waits for it: a broken driver may hold it in the kernel
        return None
    return answer.split() if process.returncode == 0 else None


def main() -> int:
    """Prints a UUID per line. Returns 1 if CUDA reports an error."""
    cuda = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return 1
    for index in range(count.value):
        device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
        # The second version names the MIG device instead of the GPU that it is a part of.
        if cuda.cuDeviceGet(ctypes.byref(device), index) or cuda.cuDeviceGetUuid_v2(raw, device):
            return 1
        sys.stdout.write(f"{uuid.UUID(bytes=bytes(raw))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
