"""Cut off what only debuggers read: `python without_symbols.py FOLDER`.

The wheel of uvloop has 12 MB of it, as much as a tenth of the operator's image may have. Everything
that the loader maps into memory comes first in a shared library; the tables follow.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
# Places in the header, and in the description of a segment.
_SEGMENTS_AT, _SECTIONS_AT, _SEGMENTS, _SECTIONS = 0x20, 0x28, 0x36, 0x3C
_START, _SIZE = 0x08, 0x20


def cut(library: Path) -> int:
    """Cuts a shared library; another file stays as it is. Returns the bytes that it lost."""
    data = library.read_bytes()
    if not data.startswith(_MAGIC):
        return 0
    first = _number(data, _SEGMENTS_AT)
    length, count = struct.unpack_from("<2H", data, _SEGMENTS)
    segments = range(first, first + length * count, length)
    end = max(_number(data, at + _START) + _number(data, at + _SIZE) for at in segments)
    if end >= len(data):
        return 0
    kept = bytearray(data[:end])
    kept[_SECTIONS_AT : _SECTIONS_AT + 8] = bytes(8)
    kept[_SECTIONS : _SECTIONS + 4] = bytes(4)  # their number, and which one has their names
    library.write_bytes(kept)
    return len(data) - end


def _number(data: bytes, at: int) -> int:
    number: int = struct.unpack_from("<Q", data, at)[0]
    return number


def main(folder: Path) -> None:
    """Cuts all libraries below a folder."""
    lost = sum(cut(library) for library in sorted(folder.rglob("*.so")))
    sys.stdout.write(f"{folder}: {lost / 1e6:.1f} MB of symbols cut off\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
