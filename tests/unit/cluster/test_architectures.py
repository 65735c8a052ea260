"""The images can be built for arm64, too: each has its packages, and no step is for x86-64."""

from __future__ import annotations

import re

import pytest
from packaging.markers import Marker

from tests.cluster.console import Problem
from tests.cluster.requirements import FOLDER, FOR_GPUS, MACHINES, marked
from tests.cluster.settings import ROOT
from tests.unit.cluster.test_requirements import needed_by, needs

PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==[^\s;]+(?: ; (.+?))? \\$", re.MULTILINE)


def pinned_for(name: str, machine: str) -> set[str]:
    """The packages that an image installs on a machine of this architecture."""
    rows = PIN.findall((FOLDER / f"{name}.txt").read_text())
    assert rows
    return {package for package, marker in rows if not marker or Marker(marker).evaluate({"platform_machine": machine})}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["server-cpu", "operator"])
def test_an_image_gets_what_its_architecture_needs_and_no_more(name: str, machine: str) -> None:
    needed = {package for root in needs(f"{name}.in") for package in needed_by(root, platform_machine=machine)}
    overridden = {package for package, requirement in needs("overrides.txt").items() if requirement.marker}
    assert pinned_for(name, machine) == needed - set(FOR_GPUS) - overridden


def test_intels_library_is_for_intels_processors_only() -> None:
    assert "intel-openmp" in pinned_for("server-cpu", "x86_64")
    assert "intel-openmp" not in pinned_for("server-cpu", "aarch64")


def test_a_package_that_one_architecture_needs_is_marked() -> None:
    text = "a==1 \\\n    --hash=sha256:0\na-b==2.0 \\\n    --hash=sha256:1\n"
    needed = {"x86_64": {"a", "a-b"}, "aarch64": {"a"}}
    once = marked(text, needed)
    assert once == text.replace("a-b==2.0 ", "a-b==2.0 ; platform_machine == 'x86_64' ")
    assert marked(once, needed) == once
    with pytest.raises(Problem, match="c, which aarch64 needs, is not pinned"):
        marked(text, {"x86_64": {"a"}, "aarch64": {"a", "c"}})


@pytest.mark.parametrize("file", ["server/Dockerfile", "operator/Dockerfile", "requirements/install.sh"])
def test_no_step_of_a_build_is_for_one_architecture(file: str) -> None:
    steps = [line for line in (ROOT / file).read_text().splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in steps if re.search(r"amd64|arm64|x86[-_]64|aarch64|--platform", line)] == []
