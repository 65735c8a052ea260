"""Debian packages that the cluster's tools come from: found by the programs in them, installed when missing."""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
from collections.abc import Collection

from tests.cluster.console import Problem
from tests.cluster.settings import Settings
from tests.cluster.shell import logged

PROGRAMS = {
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "node": "nodejs",
    "npm": "npm",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "promtool": "prometheus",
    "runc": "runc",
    "sysctl": "procps",
}
# Patterns of files.
FILES = {
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/usr/lib/*/libnuma.so.1": "libnuma1",  # vLLM's CPU engine, for tests and `make serve`
}
# What the programs and the unit tests need, without a cluster.
WITHOUT_CLUSTER = frozenset({"ca-certificates", "libnuma1", "prometheus", "python3-venv"})
# What only tests need: no demo should install the few hundred packages of npm.
FOR_TESTS = frozenset({"curl", "nodejs", "npm"})
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def missing(among: Collection[str] | None = None) -> list[str]:
    """The packages that have to be installed: of those named, or else of all that a cluster needs."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    names = {package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None}
    names |= {package for file, package in FILES.items() if not glob.glob(file)}
    if importlib.util.find_spec("ensurepip") is None:
        names.add("python3-venv")
    return sorted(names - FOR_TESTS if among is None else names.intersection(among))


def install_without_cluster(settings: Settings) -> str:
    """Install what the programs need to run outside of a cluster; on other systems than Debian that is the user's."""
    return install(settings, WITHOUT_CLUSTER) if shutil.which("apt-get") else "this is not Debian: left alone"


def install(settings: Settings, among: Collection[str] | None = None) -> str:
    """Install what `missing` tells by apt-get. Returns a one-line summary."""
    wanted = missing(among)
    if not wanted:
        return "all there"
    line = f"apt-get install {' '.join(wanted)}"
    if shutil.which("apt-get") is None:
        raise Problem(f"not installed: {', '.join(wanted)}", "this machine is not Debian: install what holds these")
    if os.geteuid() != 0:
        raise Problem(f"not installed: {', '.join(wanted)}", f"run as root: {line}")
    log = settings.cache / "logs" / "apt.log"
    # Debian starts services of some packages at once; the cluster brings its own.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    mend = f"try by hand: {line}   (log: {log})"
    logged(["apt-get", "-q", "-o", "Acquire::Retries=3", "update"], log, env=env, mend=mend)
    options = ["-q", "-y", "--no-install-recommends", "-o", "Acquire::Retries=3"]
    logged(["apt-get", "install", *options, *wanted], log, env=env, mend=mend)
    if still := missing(wanted):
        raise Problem(f"still not installed: {', '.join(still)}", mend)
    return f"installed {', '.join(wanted)}"
