"""Finds and removes what a cluster leaves on the machine, also after a crash."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.cluster import cgroups, network
from tests.cluster.console import Problem
from tests.cluster.processes import all_pids, ancestors, arguments, kill_all
from tests.cluster.settings import Settings
from tests.cluster.shell import output

CNI_RESULTS = Path("/var/lib/cni/results")
CONTAINER_LOG_LINKS = Path("/var/log/containers")


def remove_containers(settings: Settings) -> bool:
    """Kill and delete every container of containerd. Returns whether there were any."""
    ctr = ["ctr", "--address", str(settings.containerd_socket), "--namespace", "k8s.io"]
    try:
        tasks = output([*ctr, "tasks", "list", "-q"]).split()
        containers = output([*ctr, "containers", "list", "-q"]).split()
        if tasks:
            output([*ctr, "tasks", "delete", "--force", *tasks])
        if containers:
            output([*ctr, "containers", "delete", *containers])
    except Problem:
        # `sweep` removes a broken containerd with everything else, and the next `up` tries again.
        return True
    return bool(tasks or containers)


def sweep(settings: Settings) -> None:
    """Remove the processes, mounts, cgroups, network and files of a cluster in any state."""
    cgroups.remove(settings.cgroup)
    kill_all(_processes(settings), grace=0)
    _remove_shim_sockets(settings)
    for mount in mounts(settings.home):
        output(["umount", "--lazy", mount])
    network.remove(settings)
    for result in CNI_RESULTS.glob("*"):
        if str(settings.run) in result.read_text(errors="replace"):
            result.unlink()
    _remove_log_links(settings)
    if mounts(settings.home):
        raise Problem(f"cannot unmount {', '.join(mounts(settings.home))}", "unmount them by hand")
    shutil.rmtree(settings.run, ignore_errors=True)


def _processes(settings: Settings) -> list[int]:
    """All processes in the cluster's network, and the detached container shims."""
    family = ancestors(os.getpid())
    found = set(network.members(settings))
    marker = str(settings.run) + "/"
    for pid in all_pids():
        words = arguments(pid)
        if words and Path(words[0]).name.startswith("containerd-shim") and any(marker in word for word in words):
            found.add(pid)
    return sorted(found - family)


def mounts(folder: Path) -> list[str]:
    """Mount points under a folder, innermost first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    decoded = [point.replace("\\040", " ") for point in points]
    return sorted((point for point in decoded if point.startswith(f"{folder}/")), reverse=True)


def _remove_shim_sockets(settings: Settings) -> None:
    """Remove the sockets under /run that killed shims leave; their bundles name them."""
    for address in (settings.run / "containerd").glob("io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)


def _remove_log_links(settings: Settings) -> None:
    """Remove the kubelet's links to container logs under /var/log."""
    if not CONTAINER_LOG_LINKS.is_dir():
        return
    for link in CONTAINER_LOG_LINKS.iterdir():
        if link.is_symlink() and str(link.readlink()).startswith(f"{settings.run}/"):
            link.unlink()
