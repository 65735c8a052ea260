"""The container images: tagged by a hash of their content, built by buildah, pushed.

Every level skips existing results: an image whose tag is in the registry is not inspected.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster import python_env, registry, release
from tests.cluster.console import Problem, say
from tests.cluster.processes import wait_until
from tests.cluster.settings import REGISTRY, ROOT, Settings
from tests.cluster.shell import digest, logged, output, succeeds

SUITE = "bookworm"
BASE_PACKAGES = ("python3", "ca-certificates", "libnuma1", "tini")
BASE_DOCKERFILE = """\
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
# Unused folders of the base image, where builds find uv and its cache.
UV_MOUNT, UV_CACHE_MOUNT = "/srv", "/mnt"
# The time of every file and of the image, 1980-01-01: the same content has the same digest, however
# often it is built, and also if a layer comes from an earlier build.
EPOCH = 315532800


@dataclass(frozen=True)
class Image:
    """One of our images: its Dockerfile, the target in it, and all inputs of its content."""

    name: str
    dockerfile: str
    target: str
    sources: tuple[str, ...]

    def tag(self) -> str:
        """A short hash of everything that the image is made from.

        Computed once per process: an edit during a run must not change what the run has built.
        """
        return _tag(self)

    def reference(self) -> str:
        """`localhost:5000/name:tag`."""
        return f"{REGISTRY}/{self.name}:{self.tag()}"


@functools.cache
def _tag(image: Image) -> str:
    return digest([ROOT / source for source in (image.dockerfile, *image.sources)], image.target, base_tag())[:12]


SERVER = Image(
    "qwen-server",
    "server/Dockerfile",
    "cpu",
    (
        *("requirements/install.sh", "requirements/without_cuda.py", "requirements/server-cpu.txt"),
        *("server/src", "server/models"),
    ),
)
OPERATOR = Image(
    "qwen-operator",
    "operator/Dockerfile",
    "operator",
    ("requirements/install.sh", "requirements/operator.txt", "requirements/without_symbols.py", "operator/src"),
)
IMAGES = (SERVER, OPERATOR)


def base_tag() -> str:
    return f"localhost/qwen-base:{digest([], SUITE, *BASE_PACKAGES, BASE_DOCKERFILE)[:12]}"


def ensure_base(settings: Settings) -> str:
    """Build the Debian base image that replaces Docker Hub's. Returns a one-line summary."""
    if has_local(settings, base_tag()):
        return "up to date"
    log = settings.cache / "logs" / "image-base.log"
    with TemporaryDirectory(dir=_folder(settings), prefix="base-") as folder:
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", *_apt_options()]
        env = {**os.environ, "TMPDIR": folder}
        logged([*command, SUITE, f"{folder}/rootfs.tar", *_mirrors()], log, env=env, hint=f"see {log}")
        Path(folder, "Dockerfile").write_text(BASE_DOCKERFILE)
        logged([*buildah(settings), "build", "-t", base_tag(), folder], log, env=build_env())
    return f"made from Debian {SUITE}"


def ensure_built(settings: Settings, image: Image) -> str:
    """Build an image into buildah's own storage. Returns a one-line summary."""
    reference = image.reference()
    if has_local(settings, reference):
        return "up to date"
    build(settings, image, reference)
    return f"built {reference}"


def build(settings: Settings, image: Image, reference: str, *options: str) -> None:
    """Build an image under a name. Raises Problem."""
    log = settings.cache / "logs" / f"image-{image.name}.log"
    with _secrets(settings) as secrets:
        mounts = [f"--volume={settings.cache}/uv/bin:{UV_MOUNT}:ro", f"--volume={_uv_cache(settings)}:{UV_CACHE_MOUNT}"]
        what = ["--file", str(ROOT / image.dockerfile), "--target", image.target, "--build-arg", f"BASE={base_tag()}"]
        how = ["--layers", f"--timestamp={EPOCH}", *labels(), *options, *mounts, *secrets]
        command = [*buildah(settings), "build", *how, *what, "--tag", reference, str(ROOT)]
        logged(command, log, env=build_env(), hint=f"see {log}")


def labels() -> list[str]:
    """Options of a build that say what the image was made from, as far as this checkout knows."""
    values = {"version": release.version()}
    with suppress(Problem):
        describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        values["revision"] = output(describe).strip()
        remote = output(["git", "-C", str(ROOT), "remote", "get-url", "origin"]).strip()
        # Another address may contain a password.
        if re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", remote):
            values["source"] = remote.removesuffix(".git")
    return [f"--label=org.opencontainers.image.{name}={value}" for name, value in values.items()]


def ensure_pushed(settings: Settings, image: Image) -> str:
    """Push an image to the cluster's registry; build it if needed. Returns a one-line summary.

    A layer that something else has touched makes every push fail, and every build on top of it. So
    after a push that failed, all local images are removed, and the image is built and pushed again.
    """
    reference = image.reference()
    if registry.has(settings, reference):
        return f"{reference} is up to date"
    ensure_built(settings, image)
    try:
        return _push(settings, image, reference)
    except Problem as problem:
        say(f"{problem.what}: {image.name} is built again from its base")
    folder = _folder(settings)
    try:
        log = settings.cache / "logs" / f"image-{image.name}.log"
        logged([*buildah(settings), "rmi", "--all", "--force"], log, env=build_env(), hint=f"see {log}")
        ensure_base(settings)
        ensure_built(settings, image)
        return f"{_push(settings, image, reference)}, after it was built again"
    except Problem as problem:
        remedy = f"is the disk full? else remove the local images and try again: make cluster-down; rm -rf {folder}"
        raise Problem(f"{reference} cannot be pushed: {problem.what}", remedy, problem.details) from problem


def _push(settings: Settings, image: Image, reference: str) -> str:
    """Push an image that is built. Returns a one-line summary."""
    log = settings.cache / "logs" / f"image-{image.name}.log"
    how = ["--tls-verify=false", "--compression-format", "zstd", "--compression-level", "1"]
    command = [*settings.nsenter(), *buildah(settings), "push", *how, reference, f"docker://{reference}"]
    logged(command, log, env=build_env(), hint=f"see {log}")
    if not wait_until(lambda: registry.has(settings, reference), 10):
        raise Problem(f"{reference} is not in the registry after the push", f"see {log}")
    return f"pushed {reference}"


def ensure_prepared(settings: Settings, image: Image) -> str:
    """Build before the cluster starts, unless the registry's files contain the image."""
    name, tag = registry.split(image.reference())
    stored = (
        settings.registry_data / "docker/registry/v2/repositories" / name / "_manifests/tags" / tag / "current/link"
    )
    return "up to date" if stored.exists() else ensure_built(settings, image)


def buildah(settings: Settings) -> list[str]:
    """The buildah command with its own storage in the cache."""
    return ["buildah", "--root", f"{_folder(settings)}/storage", "--runroot", f"{_folder(settings)}/runroot"]


def has_local(settings: Settings, reference: str) -> bool:
    """Whether buildah's storage holds an image."""
    if not (_folder(settings) / "storage").exists():
        return False
    return succeeds([*buildah(settings), "inspect", "--type", "image", "--format", "{{.FromImageID}}", reference])


def build_env() -> dict[str, str]:
    """The environment of builds: chroot isolation needs neither a runtime nor a network namespace.

    Storage is an overlay file system unless STORAGE_DRIVER says otherwise.
    """
    env = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    env.setdefault("STORAGE_DRIVER", "overlay")
    return env


def _folder(settings: Settings) -> Path:
    settings.images.mkdir(parents=True, exist_ok=True)
    return settings.images


def _uv_cache(settings: Settings) -> str:
    folder = output([python_env.uv(settings), "cache", "dir"]).strip()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _secrets(settings: Settings) -> Iterator[list[str]]:
    """Build secrets that give uv in a build the same package index; no image contains them."""
    values = {**python_env.index_env(settings), "SSL_CERT_FILE": "/run/ca.pem", "UV_CACHE_DIR": UV_CACHE_MOUNT}
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    with TemporaryDirectory(prefix="qwen-build-") as folder:
        file = Path(folder, "index.env")
        file.write_text("\n".join([*lines, f"PATH={UV_MOUNT}:$PATH", ""]))
        yield ["--secret", f"id=index,src={file}", "--secret", f"id=ca,src={python_env.ca_bundle()}"]


def _mirrors() -> list[str]:
    """The Debian mirrors of this machine if it runs the same suite, else mmdebstrap's default."""
    if shutil.which("apt-get") is None:
        return []
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    targets = output(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    return mirror_lines(targets)


def mirror_lines(targets: str) -> list[str]:
    """The sources.list lines of the base image, from `apt-get indextargets`.

    Only the component main of Debian itself is used.
    """
    suites = {SUITE, f"{SUITE}-updates", f"{SUITE}-security"}
    rows = [line.split() for line in targets.splitlines()]
    chosen = {(row[0], row[1]) for row in rows if len(row) == 4 and row[1] in suites and row[2:] == ["main", "Debian"]}
    if SUITE not in {suite for _, suite in chosen}:
        return []
    return [f"deb {uri} {suite} main" for uri, suite in sorted(chosen, key=lambda pair: len(pair[1]))]


def _apt_options() -> list[str]:
    """The proxies that apt uses on this machine."""
    if shutil.which("apt-config") is None:
        return []
    lines = output(["apt-config", "dump", "--format", '%f "%v";%n', "Acquire"]).splitlines()
    wanted = [line for line in lines if line.lower().startswith(("acquire::http::proxy", "acquire::https::proxy"))]
    return [f"--aptopt={line}" for line in wanted if not line.endswith('"";')]
