"""Debian packages of the cluster's tools: detected by their programs, installed if missing."""

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
    "cc": "gcc",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "java": "default-jre-headless",
    "jq": "jq",
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
# File name patterns.
FILES = {
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
    "/usr/include/stdio.h": "libc6-dev",  # with gcc, for the library that stands in for a GPU driver
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/usr/lib/*/libnuma.so.1": "libnuma1",  # vLLM's CPU engine, for tests and `make serve`
}
# What the programs and the unit tests need without a cluster.
WITHOUT_CLUSTER = frozenset({"ca-certificates", "gcc", "libc6-dev", "libnuma1", "prometheus", "python3-venv"})
# What only tests need: a demo should not install npm's hundreds of packages.
FOR_TESTS = frozenset({"curl", "gcc", "jq", "libc6-dev", "nodejs", "npm"})
# What only the client programs of `make test-full` need.
FOR_CLIENTS = frozenset({"default-jre-headless"})
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def missing(among: Collection[str] | None = None) -> list[str]:
    """The missing packages: of `among`, or else of everything that a cluster needs."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    names = {package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None}
    names |= {package for file, package in FILES.items() if not glob.glob(file)}
    if importlib.util.find_spec("ensurepip") is None:
        names.add("python3-venv")
    return sorted(names - FOR_TESTS - FOR_CLIENTS if among is None else names.intersection(among))


def install_without_cluster(settings: Settings) -> str:
    """Install what the programs need without a cluster; only on Debian."""
    return install(settings, WITHOUT_CLUSTER) if shutil.which("apt-get") else "not Debian: nothing installed"


def install(settings: Settings, among: Collection[str] | None = None) -> str:
    """Install the missing packages with apt-get. Returns a one-line summary."""
    wanted = missing(among)
    if not wanted:
        return "up to date"
    line = f"apt-get install {' '.join(wanted)}"
    if shutil.which("apt-get") is None:
        raise Problem(
            f"not installed: {', '.join(wanted)}", "this machine is not Debian: install the equivalent packages"
        )
    if os.geteuid() != 0:
        raise Problem(f"not installed: {', '.join(wanted)}", f"run as root: {line}")
    log = settings.cache / "logs" / "apt.log"
    # Debian starts the services of some packages at once; the cluster runs its own.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    hint = f"run {line} yourself; log: {log}"
    logged(["apt-get", "-q", "-o", "Acquire::Retries=3", "update"], log, env=env, hint=hint)
    options = ["-q", "-y", "--no-install-recommends", "-o", "Acquire::Retries=3"]
    logged(["apt-get", "install", *options, *wanted], log, env=env, hint=hint)
    if still := missing(wanted):
        raise Problem(f"still not installed: {', '.join(still)}", hint)
    return f"installed {', '.join(wanted)}"
