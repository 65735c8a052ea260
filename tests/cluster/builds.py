"""Programs built from Go modules, each pinned by its own go.mod and go.sum under gomod/."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.console import Problem
from tests.cluster.settings import KUBERNETES_VERSION, Settings
from tests.cluster.shell import Stamps, digest, logged, output

GOMOD = Path(__file__).resolve().parent / "gomod"
MINIMAL_GO = (1, 26)
# The release that gomod/prometheus pins: v0.311.3 is the Go module of 3.11.3.
PROMETHEUS_VERSION = "3.11.3"
_PROMETHEUS_FLAG = "-X github.com/prometheus/common/version.Version"
_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")
_KUBERNETES_FLAGS = (
    f"-X {_VERSION}.gitVersion=v{KUBERNETES_VERSION} -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
)
# The Prometheus Operator starts only if all of them are there.
CRDS = ("servicemonitors", "prometheusrules", "podmonitors", "probes", "prometheuses")


@dataclass(frozen=True)
class GoBuild:
    """A folder under gomod/, the package to install from it, and the resulting programs."""

    folder: str
    package: str
    programs: tuple[str, ...]
    ldflags: str = ""
    into: str = ""
    stamp: str = ""
    tags: str = ""


KUBERNETES = GoBuild(
    "kubernetes",
    "tool",
    (
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubectl",
        "kubelet",
    ),
    _KUBERNETES_FLAGS,
)
KUBECTL = GoBuild("kubernetes", "k8s.io/kubernetes/cmd/kubectl", ("kubectl",), _KUBERNETES_FLAGS, stamp="kubectl")
COREDNS = GoBuild("coredns", ".", ("coredns",))
PAUSE = GoBuild("pause", ".", ("pause",))
HELM = GoBuild("helm", "tool", ("helm",))
# The chart must work with Helm 3 and 4. Both programs have the same name, so Helm 4 gets its own
# folder.
HELM4 = GoBuild("helm4", "tool", ("helm",), into="helm4")
ACTIONLINT = GoBuild("actionlint", "tool", ("actionlint",))
FOR_CLUSTER = (KUBERNETES, COREDNS, PAUSE, HELM)
PROMETHEUS_OPERATOR = GoBuild(
    "prometheus-operator",
    "tool",
    ("operator", "prometheus-config-reloader"),
    f"{_PROMETHEUS_FLAG}=0.85.0",
    into="monitoring",
)
# Debian's Prometheus cannot find targets in Kubernetes. This one finds them nowhere else: the other
# clouds' libraries would take most of the build.
PROMETHEUS = GoBuild(
    "prometheus",
    "tool",
    ("prometheus",),
    f"{_PROMETHEUS_FLAG}={PROMETHEUS_VERSION}",
    into="monitoring",
    tags="remove_all_sd,enable_kubernetes_sd",
)
MONITORING = (PROMETHEUS_OPERATOR, PROMETHEUS)
# What `make lint` and the unit tests need.
FOR_CHECKS = (HELM, ACTIONLINT)


def ensure(settings: Settings, builds: tuple[GoBuild, ...]) -> str:
    """Build what is missing. Returns a one-line summary."""
    stamps = Stamps(settings.cache / "stamps")
    done = [build.folder for build in builds if _ensure_one(settings, stamps, build)]
    return f"built {', '.join(done)}" if done else "up to date"


def _ensure_one(settings: Settings, stamps: Stamps, build: GoBuild) -> bool:
    folder = GOMOD / build.folder
    value = digest([folder], build.ldflags, build.into, *filter(None, [build.tags]))
    stamp = f"go-{build.stamp or build.folder}"
    target = settings.bin / build.into
    if stamps.fresh(stamp, value) and all((target / program).exists() for program in build.programs):
        return False
    require_go()
    log = settings.cache / "logs" / f"go-{build.folder}.log"
    # -buildvcs=false: the state of this checkout does not belong in these programs.
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {build.ldflags}".strip()]
    flags += ["-tags", build.tags] if build.tags else []
    env = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(target), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    logged(["go", "install", *flags, build.package], log, cwd=folder, env=env, hint=f"see {log}; is there a network?")
    stamps.set(stamp, value)
    return True


def require_go() -> None:
    """Raise Problem unless a recent enough Go is installed."""
    hint = f"install Go {MINIMAL_GO[0]}.{MINIMAL_GO[1]} or newer from https://go.dev/dl/ and put it on PATH"
    if shutil.which("go") is None:
        raise Problem("go is not installed", hint)
    match = re.search(r"go(\d+)\.(\d+)", output(["go", "version"]))
    if match is None or (int(match.group(1)), int(match.group(2))) < MINIMAL_GO:
        raise Problem(f"go is too old: {output(['go', 'version']).strip()}", hint)


def ensure_crds(settings: Settings) -> str:
    """Copy the Prometheus operator's CRDs out of its Go module. Returns a one-line summary."""
    folder = GOMOD / "prometheus-operator"
    stamps = Stamps(settings.cache / "stamps")
    value = digest([folder], *CRDS)
    target = crds(settings)
    if stamps.fresh("crds", value) and target.is_dir():
        return "up to date"
    require_go()
    module = "github.com/prometheus-operator/prometheus-operator"
    found = json.loads(output(["go", "-C", folder, "mod", "download", "-json", module], timeout=600))
    target.mkdir(parents=True, exist_ok=True)
    for name in CRDS:
        source = Path(found["Dir"]) / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{name}.yaml"
        (target / source.name).write_bytes(source.read_bytes())
    stamps.set("crds", value)
    return f"copied {', '.join(CRDS)}"


def crds(settings: Settings) -> Path:
    """The folder with the CRDs of the Prometheus Operator."""
    return settings.cache / "crds"
