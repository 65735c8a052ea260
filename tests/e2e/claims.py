"""A claim for a small disk of its own, whose files a test writes and reads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.kubectl import Kubectl

CLAIM = "models"


@contextmanager
def claimed(kubectl: Kubectl, folder: Path, kib: int) -> Iterator[None]:
    """A bound claim for a disk of so many KiB, which is mounted at `folder` during the block."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0777", "tmpfs", str(folder)], check=True)
    volume = f"{kubectl.namespace}-{CLAIM}"
    storage: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    try:
        kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume},
                "spec": {**storage, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}},
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": CLAIM},
                "spec": {**storage, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
            },
        )
        yield
    finally:
        kubectl.run("delete", "qwenservices,jobs,pods", "--all", "--wait=true", "--grace-period=1")
        kubectl.run("delete", "persistentvolume", volume, "--wait=false")
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
