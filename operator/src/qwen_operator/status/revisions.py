"""Which pods tell about the present: those of the newest revision. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def revision_of(pod: Mapping[str, Any]) -> str:
    """The hash of the pod template that a pod was made from; empty if it has none."""
    return str((pod["metadata"].get("labels") or {}).get("pod-template-hash") or "")


def of_newest(pods: Sequence[Mapping[str, Any]], newest: str | None) -> Sequence[Mapping[str, Any]]:
    """The pods of the newest revision, or all as long as it has none or is not known.

    Older pods are being replaced. What fails in them may be what the last change has corrected.
    """
    found = [pod for pod in pods if revision_of(pod) == newest and not pod["metadata"].get("deletionTimestamp")]
    return found or pods
