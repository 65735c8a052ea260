"""What requirements/install.sh takes out of the images, and what still works without it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from requirements import without_cuda, without_symbols
from tests.cluster import images
from tests.cluster.python_env import DEFAULT_CA
from tests.cluster.requirements import FOLDER, FOR_GPUS, pins
from tests.cluster.settings import ROOT

# Versions as NVIDIA's libraries give them; NCCL gives none.
CUBLAS = "int cublasVersion(void) { return 13; }"
NCCL = "int ncclVersion(void) { return 2; }"
USER = """
#include <unistd.h>
extern int cublasVersion(void);
extern int ncclVersion(void);
__attribute__((section(".nv_fatbin"), used)) static const char code[3000000] = {1};
int (*volatile addresses[])(void) = {cublasVersion, ncclVersion};
int versions(void) { return cublasVersion() + ncclVersion(); }
int missing(void) { return (addresses[0] == 0) + (addresses[1] == 0); }
int code_at(int place) { return ((volatile const char *)code)[place]; }
int process(void) { return getpid() == getppid() ? 0 : 42; }
"""
ASK = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1])[sys.argv[2]](*map(int, sys.argv[3:])))"


def compiled(source: str, target: Path, *options: str) -> Path:
    command = ["cc", "-shared", "-fPIC", "-g", "-x", "c", "-", "-x", "none", "-o", str(target), *options]
    subprocess.run(command, input=source.encode(), check=True)
    return target


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library that is linked with NVIDIA's, as PyTorch's are. NVIDIA's are gone."""
    script = tmp_path / "versions"
    script.write_text("libcublas.so.13 { global: *; };\n")
    cublas = compiled(
        CUBLAS, tmp_path / "libcublas.so.13", "-Wl,-soname=libcublas.so.13", f"-Wl,--version-script={script}"
    )
    nccl = compiled(NCCL, tmp_path / "libnccl.so.2", "-Wl,-soname=libnccl.so.2")
    user = compiled(USER, tmp_path / "libuser.so", "-Wl,--no-as-needed", str(cublas), str(nccl))
    for needed in (cublas, nccl):
        needed.unlink()
    return user


def ask(library: Path, function: str, *numbers: int) -> subprocess.CompletedProcess[str]:
    """Call a function of a library in a process of its own, whose exit code is the result."""
    command = [sys.executable, "-c", ASK, str(library), function, *map(str, numbers)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_library_loads_without_nvidias_and_calls_what_it_still_has(library: Path) -> None:
    assert "libcublas.so.13: cannot open shared object file" in ask(library, "process").stderr
    assert without_cuda.slim(library) > 2_900_000
    assert ask(library, "process").returncode == 42
    assert ask(library, "missing").returncode == 2
    assert ask(library, "versions").returncode == -signal.SIGSEGV


def test_code_for_gpus_becomes_memory_of_zeros(library: Path) -> None:
    without_cuda.slim(library)
    assert library.stat().st_size < 100_000
    for place in (100_000, 1_500_000, 2_900_000):
        result = ask(library, "code_at", place)
        assert (result.returncode, result.stderr) == (0, "")


def test_what_only_a_debugger_reads_is_cut_from_any_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compiled("int answer(void) { return 42; }", tmp_path / "liba.so")
    assert without_cuda.slim(library) == 0  # not worth it
    monkeypatch.setattr(without_cuda, "WORTHWHILE", 100)
    size = library.stat().st_size
    assert without_cuda.slim(library) == size - library.stat().st_size > 0
    assert ask(library, "answer").returncode == 42
    assert without_cuda.slim(library) == 0  # a second time


def test_another_environments_file_is_not_changed(library: Path, tmp_path: Path) -> None:
    linked = tmp_path / "other.so"
    linked.hardlink_to(library)
    before = linked.read_bytes()
    without_cuda.slim(library)
    assert linked.read_bytes() == before


def test_what_is_no_library_stays(tmp_path: Path) -> None:
    script = tmp_path / "libc.so"
    script.write_text("GROUP ( libc.so.6 )\n")
    assert without_cuda.slim(script) == 0
    assert script.read_text() == "GROUP ( libc.so.6 )\n"


def test_pytorch_says_that_it_is_no_build_for_cuda(tmp_path: Path) -> None:
    torch = tmp_path / "torch"
    (torch / "lib").mkdir(parents=True)
    (torch / "lib" / "libtorch_cuda_linalg.so").write_bytes(b"")
    version = torch / "version.py"
    version.write_text("__version__ = '2.13.0+cu130'\ncuda: str | None = '13.0'\nhip: str | None = None\n")
    without_cuda.main(tmp_path)
    assert version.read_text() == "__version__ = '2.13.0+cu130'\ncuda: str | None = None\nhip: str | None = None\n"
    assert not (torch / "lib" / "libtorch_cuda_linalg.so").exists()
    # The index has a build for CPUs of the architectures that are not x86-64.
    without_cuda.main(tmp_path)
    assert "cuda: str | None = None\n" in version.read_text()
    version.write_text("__version__ = '2.13.0'\n")
    with pytest.raises(ValueError, match="does not name a version"):
        without_cuda.main(tmp_path)


def test_the_cpu_image_has_cudas_runtime_and_nothing_else_for_gpus() -> None:
    found = {name for name in pins(FOLDER / "server-cpu.txt") if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert found == {"nvidia-cuda-cupti", "nvidia-cuda-runtime", "nvidia-ml-py"}
    assert set(FOR_GPUS) <= pins(FOLDER / "dev.txt").keys()


def install(*arguments: str | Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    command = ["sh", str(FOLDER / "install.sh"), *map(str, arguments)]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=False)


def written(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_operators_client_keeps_the_classes_that_kopf_looks_at(tmp_path: Path) -> None:
    kept = {
        "kubernetes/__init__.py",
        "kubernetes/aio/client/api_client.py",
        "kubernetes/client/api/__init__.py",
        "kubernetes/client/models/__init__.py",
        "kubernetes/client/models/v1_object_meta.py",
        "kubernetes/client/models/__pycache__/v1_object_meta.cpython-311.pyc",
        "kubernetes/aio/client/api/__init__.py",
        "kubernetes/aio/client/models/__init__.py",
    }
    gone = ("client/models/v1_pod.py", "client/models/__pycache__/v1_pod.cpython-311.pyc", "aio/client/api/core_v1.py")
    written(tmp_path, *kept, *(f"kubernetes/{name}" for name in gone))
    assert install("slim", tmp_path).returncode == 0
    assert left(tmp_path) == kept


def test_pythons_packages_trust_what_the_system_trusts(tmp_path: Path) -> None:
    written(tmp_path, "certifi/cacert.pem")
    assert install("certificates", tmp_path).returncode == 0
    assert (tmp_path / "certifi" / "cacert.pem").readlink() == Path(DEFAULT_CA)
    assert install("certificates", tmp_path / "nowhere").returncode != 0
    for dockerfile, targets in (("server/Dockerfile", 2), ("operator/Dockerfile", 1)):
        assert (ROOT / dockerfile).read_text().count("install.sh certificates ") == targets


def test_what_the_operator_never_uses_is_taken_out_of_the_system(tmp_path: Path) -> None:
    kept = {
        "usr/lib/python3.11/os.py",
        "usr/local/bin/python3.11",
        "usr/bin/bash",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/share/doc/bash/copyright",
        "opt/qwen/venv/lib/python3.11/site-packages/kopf/__init__.py",
        "var/lib/dpkg/status",
        "var/lib/dpkg/info/bash.list",
    }
    gone = (
        *("usr/local/lib/python3.11/site-packages/pip/__init__.py", "usr/local/bin/pip3", "usr/bin/perl5.36"),
        *("usr/lib/python3.11/ensurepip/__init__.py", "usr/lib/x86_64-linux-gnu/perl/5.36/Config.pm"),
        *("usr/share/locale/de/bash.mo", "usr/share/doc/bash/README", "usr/share/man/man1/bash.1", "usr/bin/apt-get"),
        *("usr/lib/x86_64-linux-gnu/gconv/BIG5.so", "var/cache/apt/pkgcache.bin", "var/lib/dpkg/info/perl-base.list"),
    )
    written(tmp_path, *kept, *gone)
    packages = [f"Package: {name}\nStatus: install ok installed\nVersion: 1\n" for name in ("apt", "bash", "perl-base")]
    (tmp_path / "var/lib/dpkg/status").write_text("\n".join(packages))
    (tmp_path / "usr/bin/bash").chmod(0o4755)
    done = install("trim", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert left(tmp_path) == kept
    assert (tmp_path / "var/lib/dpkg/status").read_text() == f"{packages[1]}\n"
    assert (tmp_path / "usr/bin/bash").stat().st_mode & 0o7777 == 0o755


def test_an_image_that_has_grown_is_not_built(tmp_path: Path) -> None:
    program = tmp_path / "du"
    program.write_text("#!/bin/sh\necho '150999999 /' | tr ' ' '\\t'\n")
    program.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    fits = install("budget", "150", path=path)
    assert (fits.returncode, fits.stdout) == (0, "the image has 150 MB, at most 150 MB are allowed\n")
    assert install("budget", "149", path=path).returncode == 1
    for image, budget in ((images.SERVER, 2500), (images.OPERATOR, 150)):
        assert f"install.sh budget {budget}\n" in (ROOT / image.dockerfile).read_text()


def test_a_library_works_without_its_symbols(tmp_path: Path) -> None:
    library = compiled("int answer(int number) { return number + 1; }", tmp_path / "libanswer.so")
    text = tmp_path / "notes.so"
    text.write_text("no library")
    size = library.stat().st_size
    lost = without_symbols.cut(library)
    assert library.stat().st_size == size - lost < size
    assert without_symbols.cut(library) == without_symbols.cut(text) == 0
    assert text.read_text() == "no library"
    assert ask(library, "answer", 41).returncode == 42
