"""The writes of remediation: the readiness gate of a pod, and the ledger in a service's status."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from qwen_operator.api import RemediationStatus, format_time
from qwen_operator.api.names import READINESS_GATE
from qwen_operator.api.objects import Key, Object
from qwen_operator.api.status import UnreadableStatusError, read_ledger
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ConflictError, NotFoundError
from qwen_operator.kube.events import Recorder
from qwen_operator.kube.resources import PODS, QWEN_SERVICES
from qwen_operator.process.operator_metrics import WRITES
from qwen_operator.remediation.values import Pod
from qwen_operator.status.conditions import Suspension

Change = Callable[[RemediationStatus], RemediationStatus | None]

_ATTEMPTS: Final = 3


def gate_patch(uid: str, *, is_open: bool, reason: str, message: str, now: datetime) -> Object:
    """The patch of a pod's status that sets the readiness gate. The UID is a precondition."""
    condition = {
        "type": READINESS_GATE,
        "status": "True" if is_open else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": format_time(now),
    }
    return {"metadata": {"uid": uid}, "status": {"conditions": [condition]}}


def remediation_patch(ledger: RemediationStatus, version: str) -> Object:
    """The patch of a QwenService's status. The resourceVersion is a precondition."""
    values = ledger.to_dict()
    absent = {name: None for name in ("backoffUntil", "lastRestartTime") if name not in values}
    return {"metadata": {"resourceVersion": version}, "status": {"remediation": {**values, **absent}}}


def unreadable(service: Object) -> Suspension | None:
    """Why remediation of a service must wait: its ledger cannot be read. None if it can be."""
    try:
        read_ledger(service.get("status"))
    except UnreadableStatusError as error:
        message = (
            f"{error}. Remediation does nothing, so that budget and restarts in progress survive. Use the version of "
            "the operator that wrote it, or remove the field from the status."
        )
        return Suspension("StatusUnreadable", message)
    return None


class Writer:
    """Writes for all services.

    `store_pod` and `store_service` receive the objects that writes return.
    """

    def __init__(
        self,
        kube: KubeClient,
        recorder: Recorder,
        store_pod: Callable[[Object], None],
        store_service: Callable[[Object], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.kube = kube
        self.recorder = recorder
        self.store_pod = store_pod
        self.store_service = store_service
        self.now = now

    async def set_gate(self, pod: Pod, namespace: str, *, is_open: bool, reason: str, message: str) -> bool:
        """Sets a pod's readiness gate. Returns False if the pod is gone."""
        body = gate_patch(pod.uid, is_open=is_open, reason=reason, message=message, now=self.now())
        try:
            patched = await self.kube.patch(PODS, pod.name, namespace, body, kind="strategic", subresource="status")
        except (NotFoundError, ConflictError):
            return False
        WRITES.labels("gate").inc()
        self.store_pod(patched)
        return True

    async def update(self, key: Key, change: Change) -> RemediationStatus | None:
        """Reads a service and changes its ledger. Returns None if the change no longer applies.

        Raises UnreadableStatusError for a ledger that it would overwrite without having read it.
        """

        namespace, name = key
        for attempt in range(_ATTEMPTS):
            try:
                obj = await self.kube.get(QWEN_SERVICES, name, namespace)
                ledger = change(read_ledger(obj.get("status")))
                if ledger is None:
                    return None
                body = remediation_patch(ledger, obj["metadata"]["resourceVersion"])
                patched = await self.kube.patch(QWEN_SERVICES, name, namespace, body, subresource="status")
            except NotFoundError:
                return None
            except ConflictError:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            WRITES.labels("remediation").inc()
            self.store_service(patched)
            return ledger
        return None
