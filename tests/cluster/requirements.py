"""The pinned requirements: `make requirements` writes requirements/*.txt from the .in files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.console import Problem
from tests.cluster.python_env import PYTHON, index_env, uv
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import logged

FOLDER = ROOT / "requirements"
# The Python of vLLM's own image, which the CUDA image is built on.
CUDA_PYTHON = "3.12"
CLIENTS_AGE = "7 days"
# vLLM needs these too, but the CUDA image gets the version that the tests run with.
OWN_VERSION = frozenset({"uvicorn"})
# The architectures that an image can be built for, and the C library of the images, Debian 12's.
MACHINES = ("x86_64", "aarch64")
LIBRARY = "manylinux_2_34"
# What PyTorch's build for CUDA asks for and the CPU image leaves out: requirements/without_cuda.py
# makes PyTorch work without it.
FOR_GPUS = (
    *("cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "triton"),
    *("nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-cufile", "nvidia-curand"),
    *("nvidia-cusolver", "nvidia-cusparse", "nvidia-cusparselt-cu13", "nvidia-nccl-cu13", "nvidia-nvjitlink"),
    *("nvidia-nvshmem-cu13", "nvidia-nvtx"),
)


def compile_all(settings: Settings) -> None:
    """Pin all packages again: with hashes, in the versions of dev.txt, without index URLs."""
    overrides = ["--override", "requirements/overrides.txt"]
    for name in ("dev", "server-cpu", "operator"):
        together = [] if name == "dev" else ["-c", "requirements/dev.txt"]
        options = [*overrides, *together, "--python-version", ".".join(map(str, PYTHON)), "--generate-hashes"]
        if name == "server-cpu":
            options += [f"--no-emit-package={package}" for package in FOR_GPUS]
            options += ["--custom-compile-command", "make requirements"]
        _compile(settings, f"requirements/{name}.in", f"requirements/{name}.txt", *options)
        if name != "dev":
            mark_machines(settings, name)
    compile_clients(settings)
    compile_cuda(settings)


def mark_machines(settings: Settings, name: str) -> None:
    """Marks the pins of an image that only the architecture of this machine needs.

    Raises Problem if the other one needs a package that is not pinned.
    """
    target = FOLDER / f"{name}.txt"
    needed: dict[str, set[str]] = {}
    with TemporaryDirectory(prefix="requirements-") as folder:
        for machine in MACHINES:
            resolved = Path(folder, f"{machine}.txt")
            options = ["--override", "requirements/overrides.txt", "-c", "requirements/dev.txt"]
            options += ["--python-version", ".".join(map(str, PYTHON)), "--python-platform", f"{machine}-{LIBRARY}"]
            _compile(settings, f"requirements/{name}.in", str(resolved), *options)
            needed[machine] = pins(resolved).keys() - set(FOR_GPUS)
    target.write_text(marked(target.read_text(), needed))


def marked(text: str, needed: Mapping[str, set[str]]) -> str:
    """Pins with a marker for each package that not every architecture needs.

    `needed` are the packages by architecture. Raises Problem if one of them is not pinned.
    """
    everywhere = set.intersection(*needed.values())
    for machine, packages in needed.items():
        for package in sorted(packages - everywhere):
            line = re.compile(rf"^({re.escape(package)}==[^\s;]+)(?: ; .*)? \\$", re.MULTILINE)
            text, count = line.subn(rf"\1 ; platform_machine == '{machine}' \\", text)
            if count != 1:
                raise Problem(f"{package}, which {machine} needs, is not pinned", "add it to the file of requirements")
    return text


def compile_clients(settings: Settings) -> None:
    """Pin the client programs, which have an environment of their own.

    They bring hundreds of packages. A release with malicious code is usually found within days.
    """
    options = ["--exclude-newer", CLIENTS_AGE, "--python-version", ".".join(map(str, PYTHON)), "--generate-hashes"]
    _compile(settings, "requirements/clients.in", "requirements/clients.txt", *options)


def compile_cuda(settings: Settings) -> None:
    """Pin what vLLM's own image lacks: all that the server needs together with vLLM, without what
    vLLM needs alone.
    """
    source = FOLDER / "server-cuda.in"
    with TemporaryDirectory(prefix="requirements-") as folder:
        vllm, image, tested = (Path(folder, name) for name in ("vllm.in", "vllm.txt", "tested.txt"))
        vllm.write_text("".join(re.findall(r"^vllm==.*\n", source.read_text(), re.MULTILINE)))
        _compile(settings, str(vllm), str(image), "--python-version", CUDA_PYTHON)
        there = pins(image).keys() - OWN_VERSION
        known = pins(FOLDER / "dev.txt")
        tested.write_text("".join(f"{name}=={known[name]}\n" for name in known if name not in there))
        options = ["-c", str(tested), "--python-version", CUDA_PYTHON, "--generate-hashes", "--no-annotate"]
        options += [f"--no-emit-package={name}" for name in sorted(there)]
        options += ["--custom-compile-command", "make requirements"]
        _compile(settings, "requirements/server-cuda.in", "requirements/server-cuda.txt", *options)


def pins(path: Path) -> dict[str, str]:
    """The packages that a file pins, and their versions."""
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==([^\s;]+)", path.read_text(), re.MULTILINE))


def _compile(settings: Settings, source: str, target: str, *options: str) -> None:
    log = settings.cache / "logs" / "requirements.log"
    env = {**os.environ, **index_env(settings)}
    command = [str(uv(settings)), "pip", "compile", "--quiet", "--upgrade", "--no-emit-index-url", *options]
    logged([*command, source, "-o", target], log, cwd=ROOT, env=env, hint=f"see {log}")
