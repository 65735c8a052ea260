"""The file for the cause of an exit. It imports little, because the engine's processes log, too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

KUBELETS_LOG: Final = Path("/dev/termination-log")
"""The default, which the kubelet creates. Outside of Kubernetes nobody else does."""


def trouble_with(path: Path) -> str | None:
    """Why nothing can be written to `path`; None if it can, or if nobody asked for it."""
    if path == KUBELETS_LOG:
        return None
    if path.exists():
        fits = path.is_file() and os.access(path, os.W_OK)
        why = "it is not a file that can be written"
    else:
        fits = path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
        why = f"it does not exist, and cannot be created in {path.parent}"
    return None if fits else f"--termination-log {path} has no effect: {why}"
