"""The server's own memory."""

from __future__ import annotations

import ctypes
from pathlib import Path

from qwen_server.engine.processes import give_memory_back

_CHUNK = 65_536  # below the size from which glibc asks the kernel for each piece by itself
_CHUNKS = 1000


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def test_what_is_freed_goes_back_to_the_kernel() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(_CHUNK) for _ in range(_CHUNKS)]
    for piece in pieces:
        ctypes.memset(piece, 1, _CHUNK)
    *most, last = pieces  # one that stays at the end of the heap keeps all before it
    for piece in most:
        libc.free(piece)
    before = resident_bytes()
    give_memory_back()
    assert resident_bytes() < before - _CHUNK * _CHUNKS // 2
    libc.free(last)
