"""The clusters that `CLUSTER=` selects: the local one, kind, or kubectl's current context."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.cluster import builds, images, node, packages, python_env, shell
from tests.cluster.console import Problem, say, side_by_side, step
from tests.cluster.images import Image
from tests.cluster.settings import ROOT, Settings

KIND_NAME = "qwen-vllm"
KIND_FREE_GIB = 20
LOCAL_FREE_GIB = 15
GO_PROGRAMS = "Kubernetes, CoreDNS and Helm from Go modules"


class Cluster(Protocol):
    """A cluster to install the operator on."""

    kubectl: str
    helm: str
    kubeconfig: Path | None
    stop_hint: str

    def up(self) -> None:
        """Start the cluster. Raises Problem."""

    def down(self) -> None:
        """Stop it."""

    def prepare(self) -> None:
        """Start the cluster and make both images available to it. Raises Problem."""

    def reference(self, image: Image) -> str:
        """The name of the image for the cluster's nodes."""


def choose(settings: Settings, wanted: str) -> Cluster:
    """The cluster that `wanted` names; by default kind if Docker and kind work, otherwise local."""
    if wanted == "":
        wanted = "kind" if shutil.which("kind") and docker_works() else "local"
        say(f"CLUSTER={wanted} (set CLUSTER to kind, local or current to choose)")
    if wanted == "local":
        return Local(settings)
    if wanted == "kind":
        return Kind(settings)
    if wanted == "current":
        return Current(settings, os.environ.get("REGISTRY", "").rstrip("/"))
    raise Problem(f"CLUSTER={wanted} is unknown", "choose CLUSTER=local, CLUSTER=kind or CLUSTER=current")


def for_tests(settings: Settings) -> Local | Kind:
    """The cluster of the end-to-end tests, by CLUSTER. Never the one that somebody uses."""
    wanted = os.environ.get("CLUSTER", "") or "local"
    if wanted == "kind":
        return Kind(settings)
    if wanted == "local":
        return Local(settings)
    raise Problem(f"the tests do not run on CLUSTER={wanted}", "use CLUSTER=local or CLUSTER=kind")


def docker_works() -> bool:
    """Whether Docker is installed and responds."""
    return shutil.which("docker") is not None and shell.succeeds(["docker", "info"])


class Local:
    """The local one-node cluster."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kubectl = str(settings.bin / "kubectl")
        self.helm = str(settings.bin / "helm")
        self.kubeconfig: Path | None = settings.checkout_kubeconfig
        self.stop_hint = "make cluster-down"

    def up(self) -> None:
        node.require_root()
        ensure_tools(self.settings)
        side_by_side({GO_PROGRAMS: lambda: builds.ensure(self.settings, builds.FOR_CLUSTER)}, shell.cancel_all)
        node.up(self.settings)

    def down(self) -> None:
        node.down(self.settings)

    def prepare(self) -> None:
        node.require_root()
        ensure_tools(self.settings)
        steps: dict[str, shell.Action] = {
            GO_PROGRAMS: lambda: builds.ensure(self.settings, builds.FOR_CLUSTER),
            "images": lambda: prepare_images(self.settings),
        }
        side_by_side(steps, shell.cancel_all)
        node.up(self.settings)
        for image in images.IMAGES:
            side_by_side({f"image {image.name}": _pushing(self.settings, image)}, shell.cancel_all)

    def reference(self, image: Image) -> str:
        return image.reference()


def ensure_tools(settings: Settings) -> None:
    """Install the Debian packages and uv, which the other steps need."""
    if packages.missing() or not python_env.uv(settings).exists():
        node.require_disk(settings.cache, LOCAL_FREE_GIB)
    side_by_side({"Debian packages": lambda: packages.install(settings)}, shell.cancel_all)
    side_by_side({"uv": lambda: python_env.ensure_uv(settings)}, shell.cancel_all)


def prepare_images(settings: Settings) -> str:
    """Build the images that the registry does not have yet. Returns a one-line summary."""
    images.ensure_base(settings)
    return "; ".join(f"{image.name} {images.ensure_prepared(settings, image)}" for image in images.IMAGES)


def _pushing(settings: Settings, image: Image) -> shell.Action:
    return lambda: images.ensure_pushed(settings, image)


class Kind:
    """A kind cluster on the user's Docker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kubectl = "kubectl" if shutil.which("kubectl") else str(settings.bin / "kubectl")
        self.helm = "helm" if shutil.which("helm") else str(settings.bin / "helm")
        self.kubeconfig: Path | None = settings.checkout_kubeconfig
        self.stop_hint = "make cluster-down CLUSTER=kind"
        self.log = settings.cache / "logs" / "kind.log"

    def up(self) -> None:
        if not docker_works():
            raise Problem("CLUSTER=kind needs a running Docker", "start Docker, or use CLUSTER=local as root")
        if shutil.which("kind") is None:
            raise Problem("kind is not installed", "see https://kind.sigs.k8s.io/, or use CLUSTER=local as root")
        require_docker_disk(KIND_FREE_GIB)
        ensure_clients(self.settings, self.kubectl, self.helm)
        self.settings.checkout_kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if KIND_NAME not in shell.output(["kind", "get", "clusters"]).split():
            with step("kind cluster"):
                create = ["kind", "create", "cluster", "--name", KIND_NAME, "--config", str(ROOT / "kind-config.yaml")]
                shell.logged([*create, "--kubeconfig", str(self.kubeconfig)], self.log)
        # Also for a running cluster, because the local cluster writes its kubeconfig to the same
        # path.
        shell.output(["kind", "export", "kubeconfig", "--name", KIND_NAME, "--kubeconfig", str(self.kubeconfig)])
        self.settings.checkout_env.write_text(
            f'export KUBECONFIG="{self.kubeconfig}" PATH="{self.settings.bin}:$PATH"\n'
        )

    def prepare(self) -> None:
        self.up()
        for image in images.IMAGES:
            with step(f"image {image.name}"):
                docker_build(image, self.reference(image), self.log)
                load = ["kind", "load", "docker-image", self.reference(image), "--name", KIND_NAME]
                shell.logged(load, self.log)

    def down(self) -> None:
        """Delete the kind cluster."""
        with step("delete the kind cluster"):
            shell.output(["kind", "delete", "cluster", "--name", KIND_NAME], timeout=120)
        self.settings.checkout_kubeconfig.unlink(missing_ok=True)
        self.settings.checkout_env.unlink(missing_ok=True)

    def reference(self, image: Image) -> str:
        return f"{image.name}:{image.tag()}"


@dataclass
class Current:
    """The cluster of kubectl's current context; its nodes pull from REGISTRY."""

    settings: Settings
    registry: str
    kubectl: str = "kubectl"
    helm: str = ""
    kubeconfig: Path | None = None
    stop_hint: str = "helm uninstall --namespace qwen-system qwen-operator"

    def up(self) -> None:
        raise Problem(
            "make does not start the cluster of CLUSTER=current",
            "use a running one: make demo CLUSTER=current REGISTRY=...",
        )

    def down(self) -> None:
        raise Problem("make does not stop the cluster of CLUSTER=current", f"to remove the operator: {self.stop_hint}")

    def prepare(self) -> None:
        if not self.registry:
            raise Problem(
                "CLUSTER=current needs a registry that the cluster's nodes can pull from",
                "log in to it and run: make demo CLUSTER=current REGISTRY=registry.example.com/team",
            )
        if shutil.which("kubectl") is None:
            raise Problem("CLUSTER=current needs kubectl", "see https://kubernetes.io/docs/tasks/tools/")
        if not docker_works():
            raise Problem("CLUSTER=current builds its images with Docker, which is not running", "start Docker")
        context = shell.output(["kubectl", "config", "current-context"]).strip()
        say(f"the current context is {context}")
        self.helm = "helm" if shutil.which("helm") else str(self.settings.bin / "helm")
        ensure_clients(self.settings, self.kubectl, self.helm)
        log = self.settings.cache / "logs" / "docker.log"
        for image in images.IMAGES:
            with step(f"image {self.reference(image)}"):
                docker_build(image, self.reference(image), log)
                shell.logged(
                    ["docker", "push", self.reference(image)], log, hint=f"have you run docker login? see {log}"
                )

    def reference(self, image: Image) -> str:
        return f"{self.registry}/{image.name}:{image.tag()}"


def ensure_clients(settings: Settings, kubectl: str, helm: str) -> None:
    """Build kubectl and Helm from their Go modules where the machine has none."""
    builds_of = {str(settings.bin / "kubectl"): builds.KUBECTL, str(settings.bin / "helm"): builds.HELM}
    wanted = tuple(builds_of[program] for program in (kubectl, helm) if program in builds_of)
    if wanted:
        side_by_side({"kubectl and Helm": lambda: builds.ensure(settings, wanted)}, shell.cancel_all)


def require_docker_disk(gibibytes: int) -> None:
    """Raise Problem if Docker has less free space. In a virtual machine its disk cannot be seen."""
    folder = shell.output(["docker", "info", "--format", "{{.DockerRootDir}}"]).strip()
    if folder and Path(folder).is_dir():
        node.require_disk(Path(folder), gibibytes, "free some space: docker system prune")


def docker_build(image: Image, reference: str, log: Path) -> None:
    """Build with Docker, unless an image with this content exists."""
    if not shell.succeeds(["docker", "image", "inspect", reference]):
        # With the provenance, Docker 29 makes an index that `kind load` cannot import.
        options = ["--provenance=false", "--tag", reference, *images.labels()]
        what = ["--file", str(ROOT / image.dockerfile), "--target", image.target, *options]
        env = {**os.environ, "DOCKER_BUILDKIT": "1", "SOURCE_DATE_EPOCH": str(images.EPOCH)}
        shell.logged(["docker", "build", *what, str(ROOT)], log, env=env)
