"""What a cluster leaves on the machine, also one that crashed: found by what belongs to it, and removed."""

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
    """Kill and delete every container that containerd knows. Returns whether there were any."""
    ctr = ["ctr", "--address", str(settings.containerd_socket), "--namespace", "k8s.io"]
    try:
        tasks = output([*ctr, "tasks", "list", "-q"]).split()
        containers = output([*ctr, "containers", "list", "-q"]).split()
        if tasks:
            output([*ctr, "tasks", "delete", "--force", *tasks])
        if containers:
            output([*ctr, "containers", "delete", *containers])
    except Problem:
        # A containerd in trouble is swept away with all the rest, and the next `up` tries again.
        return True
    return bool(tasks or containers)


def sweep(settings: Settings) -> None:
    """Remove processes, mounts, cgroups, the network and the files of a cluster, whatever state they are in."""
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
        raise Problem(f"these mounts do not go away: {', '.join(mounts(settings.home))}", "unmount them by hand")
    shutil.rmtree(settings.run, ignore_errors=True)


def _processes(settings: Settings) -> list[int]:
    """Everything in the cluster's network, and the container shims, which containerd starts detached."""
    family = ancestors(os.getpid())
    found = set(network.members(settings))
    marker = str(settings.run) + "/"
    for pid in all_pids():
        words = arguments(pid)
        if words and Path(words[0]).name.startswith("containerd-shim") and any(marker in word for word in words):
            found.add(pid)
    return sorted(found - family)


def mounts(folder: Path) -> list[str]:
    """Mount points under a folder, the innermost first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    decoded = [point.replace("\\040", " ") for point in points]
    return sorted((point for point in decoded if point.startswith(f"{folder}/")), reverse=True)


def _remove_shim_sockets(settings: Settings) -> None:
    """A shim that was killed leaves its socket under /run; its bundle names it."""
    for address in (settings.run / "containerd").glob("io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)


def _remove_log_links(settings: Settings) -> None:
    """The kubelet keeps a link for every container under /var/log, wherever the logs are."""
    if not CONTAINER_LOG_LINKS.is_dir():
        return
    for link in CONTAINER_LOG_LINKS.iterdir():
        if link.is_symlink() and str(link.readlink()).startswith(f"{settings.run}/"):
            link.unlink()
