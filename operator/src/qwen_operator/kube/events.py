"""Kubernetes Events. Repeated ones are counted. A failed write never affects the caller."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from qwen_operator.api import format_time
from qwen_operator.api.objects import EventType
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError, NamespaceEndingError, NotFoundError
from qwen_operator.kube.resources import CORE_EVENTS
from qwen_operator.process.operator_metrics import WRITES

logger = logging.getLogger(__name__)

_MAX_PENDING: Final = 1000
_MAX_REMEMBERED: Final = 2000
_MAX_MESSAGE: Final = 1024


@dataclass(frozen=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, obj: dict[str, Any]) -> Subject:
        """The reference to an object."""
        metadata = obj["metadata"]
        return cls(obj["apiVersion"], obj["kind"], metadata["namespace"], metadata["name"], metadata["uid"])


@dataclass(frozen=True)
class _Message:
    subject: Subject
    type: EventType
    reason: str
    text: str


class Recorder:
    """Writes Events in the background, in order."""

    def __init__(
        self, kube: KubeClient, reporter: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._kube = kube
        self._reporter = reporter
        self._now = now
        self._pending: asyncio.Queue[_Message] = asyncio.Queue(_MAX_PENDING)
        self._written: OrderedDict[_Message, tuple[str, int]] = OrderedDict()

    def emit(self, subject: Subject, kind: EventType, reason: str, text: str) -> None:
        """Queues an Event about an object. If the queue is full, the Event is dropped."""
        try:
            self._pending.put_nowait(_Message(subject, kind, reason, text[:_MAX_MESSAGE]))
        except asyncio.QueueFull:
            logger.warning("too many events, dropped one", extra={"reason": reason, "object": subject.name})

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            message = await self._pending.get()
            try:
                await self._write(message)
            except NamespaceEndingError:
                logger.debug("the namespace is being deleted: no event is written")
            except KubeError as error:
                logger.info("writing an event failed: %s", error, extra={"reason": message.reason})

    async def _write(self, message: _Message) -> None:
        stamp = format_time(self._now())
        known = self._written.get(message)
        WRITES.labels("Event").inc()
        if known is not None:
            name, count = known
            body = {"count": count + 1, "lastTimestamp": stamp}
            try:
                await self._kube.patch(CORE_EVENTS, name, message.subject.namespace, body)
            except NotFoundError:
                pass
            else:
                self._remember(message, name, count + 1)
                return
        event = self._event(message, stamp)
        await self._kube.create(event)
        self._remember(message, event["metadata"]["name"], 1)

    def _remember(self, message: _Message, name: str, count: int) -> None:
        self._written[message] = (name, count)
        self._written.move_to_end(message)
        while len(self._written) > _MAX_REMEMBERED:
            self._written.popitem(last=False)

    def _event(self, message: _Message, stamp: str) -> dict[str, Any]:
        subject = message.subject
        unique = hashlib.sha256(repr((message, self._now().isoformat())).encode()).hexdigest()[:16]
        return {
            "apiVersion": CORE_EVENTS.api_version,
            "kind": CORE_EVENTS.kind,
            "metadata": {"name": f"{subject.name[:230]}.{unique}", "namespace": subject.namespace},
            "involvedObject": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
            "type": message.type,
            "reason": message.reason,
            "message": message.text,
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "source": {"component": "qwen-operator"},
            "reportingComponent": "qwen-operator",
            "reportingInstance": self._reporter,
        }
