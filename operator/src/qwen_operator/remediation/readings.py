"""What rounds read of the objects of a service. Each version of an object is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwen_operator.api import RemediationStatus
from qwen_operator.api.objects import Key, Object
from qwen_operator.api.qwenservice import parse_status
from qwen_operator.remediation.values import Pod
from qwen_operator.remediation.views import pod_view
from qwen_operator.remediation.writes import unreadable
from qwen_operator.status.conditions import Suspension

Ledger = tuple[RemediationStatus, Suspension | None]
"""The status of remediation, and why it cannot be acted on, if that is so."""


class Readings:
    """The readings of all services, until the next version of an object."""

    def __init__(self) -> None:
        self._pods: dict[Key, dict[str, tuple[Any, Pod]]] = {}
        self._ledgers: dict[Key, tuple[Any, Ledger]] = {}

    def pods(self, key: Key, pods: Sequence[Object]) -> list[Pod]:
        """All pods of a service. They count as pods of the newest revision."""
        before = self._pods.get(key, {})
        now = {}
        for obj in pods:
            uid, version = obj["metadata"]["uid"], _version(obj)
            known = before.get(uid)
            now[uid] = known if known is not None and known[0] == version else (version, pod_view(obj))
        self._pods[key] = now
        return [pod for _, pod in now.values()]

    def ledger(self, key: Key, service: Object) -> Ledger:
        """What the status of a service says about remediation."""
        version = _version(service)
        known = self._ledgers.get(key)
        if known is None or known[0] != version:
            known = self._ledgers[key] = (version, (parse_status(service).remediation, unreadable(service)))
        return known[1]

    def forget(self, key: Key) -> None:
        """Drops what was read of a service that was deleted."""
        self._pods.pop(key, None)
        self._ledgers.pop(key, None)


def _version(obj: Object) -> object:
    """What no other state of the object has."""
    metadata = obj["metadata"]
    version = metadata.get("resourceVersion")
    return (metadata["uid"], version) if version else object()
