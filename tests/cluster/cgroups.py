"""The cgroup of every pod, in either version of cgroups."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.processes import kill_all, wait_until

MOUNT = Path("/sys/fs/cgroup")
V2_CONTROLLERS = "+cpu +cpuset +memory +pids +io"


def roots() -> list[Path]:
    """The mount points of all hierarchies: one in version 2, one per controller in version 1."""
    if (MOUNT / "cgroup.controllers").exists():
        return [MOUNT]
    return [entry for entry in sorted(MOUNT.iterdir()) if entry.is_dir() and not entry.is_symlink()]


def create(name: str) -> None:
    """Create the cgroup in every hierarchy, with every controller that a kubelet needs."""
    for root in roots():
        if (root / "cgroup.controllers").exists() and root == MOUNT:
            for controller in V2_CONTROLLERS.split():
                if controller[1:] in (root / "cgroup.controllers").read_text().split():
                    (root / "cgroup.subtree_control").write_text(controller)
        folder = root / name.lstrip("/")
        folder.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if root != MOUNT and (folder / file).exists():
                (folder / file).write_text((root / file).read_text())


def pids(name: str) -> list[int]:
    """Every process in the cgroup and below."""
    found: set[int] = set()
    for root in roots():
        for file in (root / name.lstrip("/")).rglob("cgroup.procs"):
            try:
                found.update(int(line) for line in file.read_text().split())
            except OSError:
                continue
    return sorted(found)


def remove(name: str) -> None:
    """Kill all processes in the cgroup and remove it; does nothing if it is missing."""
    wait_until(lambda: _kill(name) == 0, 10)
    for root in roots():
        top = root / name.lstrip("/")
        if not top.exists():
            continue
        folders = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for folder in [*folders, top]:
            wait_until(lambda folder=folder: _rmdir(folder), 3)  # type: ignore[misc]


def _kill(name: str) -> int:
    found = pids(name)
    kill_all(found, grace=0)
    return len(found)


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
