"""Make PyTorch's build for CUDA loadable without NVIDIA's libraries, and all libraries small.

The package index has no build of PyTorch for CPUs on x86-64. The one for CUDA is linked with 2.7 GB
of NVIDIA's libraries, of which a CPU calls nothing, and contains 0.3 GB of code for GPUs. vLLM's
libraries contain 0.3 GB of what only a debugger reads. `install.sh` runs this script for the CPU
image, where NVIDIA's packages are not installed:

    without_cuda.py FOLDER    the folder site-packages, whose libraries are changed

- A library of PyTorch needs no library of `GONE`. The symbols that came from there become weak: the
  dynamic linker accepts that nobody defines them. A call of one would end the process. PyTorch
  calls them only after CUDA's runtime, which stays, has found a GPU.
- Its code for GPUs (the section `GPU_CODE`) becomes memory of zeros, which takes no space in the
  file.
- What is never loaded is cut from every library, as `strip` does it: the headers of sections, local
  symbols, debugging information.
- `torch.version.cuda` is None, as in PyTorch's own build for CPUs.

The files are ELF, 64 bits, little endian. docs/decisions/0017-cpu-image-without-cuda.md has the
reasons. The script uses nothing but Python's standard library.
"""

from __future__ import annotations

import mmap
import os
import py_compile
import re
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path

# CUDA's runtime and CUPTI stay, 5 MB: PyTorch asks them whether there is a GPU.
GONE = re.compile(
    r"lib(cublas|cublasLt|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparseLt|nccl|nvrtc|nvshmem_host)\.so\.\d+"
)
# The symbols of the libraries that give them no version.
GONE_SYMBOLS = re.compile(r"(nccl|cusparseLt|cuFile|curand|nvshmem)\w+")
# PyTorch opens these by name once it has found a GPU.
FOR_GPUS = ("libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so")
GPU_CODE = ".nv_fatbin"
# Libraries that would become smaller by less than this stay as they are.
WORTHWHILE = 1_000_000

PAGE = 4096
MAGIC = b"\x7fELF\x02\x01"
PT_NULL, PT_LOAD, PT_DYNAMIC, PT_NOTE = 0, 1, 2, 4
DT_NULL, DT_NEEDED, DT_STRTAB, DT_VERSYM, DT_VERNEED, DT_VERNEEDNUM = 0, 1, 5, 0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF
STB_GLOBAL, STB_WEAK = 1, 2
ANY_VERSION = 1

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")
DYNAMIC = struct.Struct("<qQ")
SYMBOL = struct.Struct("<IBBHQQ")
VERSION = struct.Struct("<H")
NEED = struct.Struct("<HHIII")
NEED_NAME = struct.Struct("<IHHII")


@dataclass(frozen=True)
class Segment:
    """A program header: a part of the file, and its place in memory."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    size: int
    memory: int
    align: int


@dataclass(frozen=True)
class Section:
    """The part of a section's header that is used here."""

    address: int
    offset: int
    size: int


class Library:
    """A shared library. It is changed in memory; the file stays as it is."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError if this is no shared library of 64 bits with headers of sections."""
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if self.data[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{path.name} is no ELF file of 64 bits, little endian")
        header = HEADER.unpack_from(self.data)
        self._programs, sections = header[5], header[6]
        if sections == 0:
            raise ValueError(f"{path.name} has no headers of sections")
        places = range(self._programs, self._programs + header[10] * PROGRAM.size, PROGRAM.size)
        self.segments = [Segment(*PROGRAM.unpack_from(self.data, place)) for place in places]
        rows = [SECTION.unpack_from(self.data, sections + i * SECTION.size) for i in range(header[12])]
        names = rows[header[13]][4]
        self.sections = {self._text(names + row[0]): Section(*row[3:6]) for row in rows}
        dynamic = [segment for segment in self.segments if segment.kind == PT_DYNAMIC]
        if not dynamic:
            raise ValueError(f"{path.name} is not linked dynamically")
        self._dynamic = dynamic[0]

    def needed(self) -> list[str]:
        """The names of the libraries that are loaded with this one."""
        entries = self._entries()
        strings = self._offset(dict(entries)[DT_STRTAB])
        return [self._text(strings + value) for tag, value in entries if tag == DT_NEEDED]

    def forget(self, gone: re.Pattern[str], symbols: re.Pattern[str]) -> None:
        """Need no library whose name is `gone`; make the symbols weak that came from there.

        `symbols` are the names of those that have no version.
        """
        entries = self._entries()
        table = dict(entries)
        strings = self._offset(table[DT_STRTAB])
        kept = [row for row in entries if row[0] != DT_NEEDED or not gone.fullmatch(self._text(strings + row[1]))]
        versions: set[int] = set()
        if DT_VERNEED in table:
            versions, first, count = self._forget_versions(table, strings, gone)
            changed = {DT_VERNEED: first, DT_VERNEEDNUM: count}
            kept = [(tag, changed.get(tag, value)) for tag, value in kept]
        self._weaken(table, strings, versions, symbols)
        kept += [(DT_NULL, 0)] * (len(entries) - len(kept))
        for index, row in enumerate(kept):
            DYNAMIC.pack_into(self.data, self._dynamic.offset + index * DYNAMIC.size, *row)

    def cut(self) -> bytes:
        """The file with nothing but what is loaded, and without the content of GPU_CODE.

        Raises ValueError if the program headers are not loaded, or if there is no room for them.
        """
        result = bytearray()
        moved: list[tuple[Segment, Segment]] = []
        for part in (part for segment in self.segments if segment.kind == PT_LOAD for part in self._parts(segment)):
            # The offset and the address of a part are the same within a page.
            start = len(result) + (part.address - len(result)) % max(part.align, PAGE)
            if part.size:
                result += bytes(start - len(result))
                result += self.data[part.offset : part.offset + part.size]
            moved.append((part, replace(part, offset=start)))
        # Only debuggers read notes, and without them there is room for the parts.
        programs = [new for segment in self.segments if segment.kind != PT_NOTE for new in _moved(segment, moved)]
        if moved[0][0].offset != 0 or self._programs + len(programs) * PROGRAM.size > self._room():
            raise ValueError(f"there is no room for {len(programs)} program headers")
        for index, program in enumerate(programs):
            values = (getattr(program, name) for name in Segment.__dataclass_fields__)
            PROGRAM.pack_into(result, self._programs + index * PROGRAM.size, *values)
        header = list(HEADER.unpack_from(result))
        header[6], header[10], header[12], header[13] = 0, len(programs), 0, 0
        HEADER.pack_into(result, 0, *header)
        return bytes(result)

    def _text(self, offset: int) -> str:
        """The string at an offset of the file."""
        return self.data[offset : self.data.find(b"\0", offset)].decode()

    def _offset(self, address: int) -> int:
        """Where the file has the content of an address."""
        for segment in self.segments:
            if segment.kind == PT_LOAD and segment.address <= address < segment.address + segment.size:
                return segment.offset + address - segment.address
        raise ValueError(f"the file has nothing for the address {address:#x}")

    def _entries(self) -> list[tuple[int, int]]:
        """The dynamic section, without the zeros at its end."""
        area = self.data[self._dynamic.offset : self._dynamic.offset + self._dynamic.size]
        return [(tag, value) for tag, value in DYNAMIC.iter_unpack(area) if tag != DT_NULL]

    def _forget_versions(self, table: dict[int, int], strings: int, gone: re.Pattern[str]) -> tuple[set[int], int, int]:
        """Take libraries out of the list of needed versions.

        Returns their versions' numbers, the address of the list's first entry, and its length.
        """
        versions: set[int] = set()
        kept = []
        start = place = self._offset(table[DT_VERNEED])
        for _ in range(table[DT_VERNEEDNUM]):
            _, names, library, offset, step = NEED.unpack_from(self.data, place)
            if gone.fullmatch(self._text(strings + library)):
                name = place + offset
                for _ in range(names):
                    row = NEED_NAME.unpack_from(self.data, name)
                    versions.add(row[2])
                    name += row[4]
            else:
                kept.append(place)
            place += step
        for this, following in zip(kept, [*kept[1:], kept[-1]], strict=True):
            row = NEED.unpack_from(self.data, this)
            NEED.pack_into(self.data, this, *row[:4], following - this)
        return versions, table[DT_VERNEED] + kept[0] - start, len(kept)

    def _weaken(self, table: dict[int, int], strings: int, versions: set[int], names: re.Pattern[str]) -> None:
        """Make undefined symbols weak: those of the versions, and those so named without one."""
        symbols = self.sections[".dynsym"]
        numbers = self._offset(table[DT_VERSYM]) if DT_VERSYM in table else None
        for index in range(symbols.size // SYMBOL.size):
            place = symbols.offset + index * SYMBOL.size
            name, info, other, section, *rest = SYMBOL.unpack_from(self.data, place)
            if section != 0 or info >> 4 != STB_GLOBAL:
                continue
            number = ANY_VERSION
            if numbers is not None:
                number = VERSION.unpack_from(self.data, numbers + index * VERSION.size)[0]
            if number in versions or (number <= ANY_VERSION and names.fullmatch(self._text(strings + name))):
                SYMBOL.pack_into(self.data, place, name, STB_WEAK << 4 | info & 0xF, other, section, *rest)
                if numbers is not None:
                    VERSION.pack_into(self.data, numbers + index * VERSION.size, ANY_VERSION)

    def _parts(self, segment: Segment) -> list[Segment]:
        """A loaded segment; two if it contains GPU_CODE, which is then at the end of the first."""
        code = self.sections.get(GPU_CODE)
        if code is None or not segment.address <= code.address < segment.address + segment.size:
            return [segment]
        start = -(-code.address // PAGE) * PAGE
        end = (code.address + code.size) // PAGE * PAGE
        if end <= start:
            return [segment]
        before, after = start - segment.address, segment.address + segment.size - end
        rest = replace(segment, offset=segment.offset + end - segment.address, address=end, physical=end, size=after)
        # Memory that the file has nothing for is zero.
        first = replace(segment, size=before, memory=end - segment.address)
        return [first, replace(rest, memory=segment.address + segment.memory - end)]

    def _room(self) -> int:
        """Where the program headers must end."""
        return min(section.offset for section in self.sections.values() if section.address)


def _moved(segment: Segment, moved: list[tuple[Segment, Segment]]) -> list[Segment]:
    """A program header for the new file; two for a loaded segment with code for GPUs."""
    end = segment.address + segment.memory
    if segment.kind == PT_LOAD:
        return [new for _, new in moved if segment.address <= new.address < end]
    if segment.size == 0:
        return [segment]
    for old, new in moved:
        if old.address <= segment.address < old.address + old.size:
            return [replace(segment, offset=new.offset + segment.address - old.address)]
    return [replace(segment, kind=PT_NULL)]


def slim(path: Path) -> int:
    """Change one file, unless it is none that can be changed. Returns how many bytes it lost."""
    try:
        library = Library(path)
        needs_nvidia = any(GONE.fullmatch(name) for name in library.needed())
        if needs_nvidia:
            library.forget(GONE, GONE_SYMBOLS)
        content = library.cut()
    except ValueError:
        return 0
    saved = path.stat().st_size - len(content)
    if not needs_nvidia and saved < WORTHWHILE:
        return 0
    # A new file: other environments may have the old one by a hard link.
    changed = path.with_name(f".{path.name}.new")
    changed.write_bytes(content)
    changed.chmod(path.stat().st_mode)
    os.replace(changed, path)
    return saved


def declare(file: Path) -> None:
    """Say in torch/version.py that this is no build for CUDA. Raises ValueError if it cannot."""
    pattern = r"^(cuda: .*) = (?:'[0-9.]+'|None)$"
    text, count = re.subn(pattern, r"\1 = None", file.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"{file} does not name a version of CUDA")
    file.write_text(text)
    py_compile.compile(str(file), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def main(folder: Path) -> int:
    """Change PyTorch and all libraries below a folder. Returns how many bytes they lost."""
    torch = folder / "torch"
    declare(torch / "version.py")
    for name in FOR_GPUS:
        (torch / "lib" / name).unlink(missing_ok=True)
    libraries = [path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    return sum(slim(path) for path in sorted(libraries) if path.stat().st_size)


if __name__ == "__main__":
    sys.stdout.write(f"the libraries are {main(Path(sys.argv[1])) / 1e6:.0f} MB smaller\n")
