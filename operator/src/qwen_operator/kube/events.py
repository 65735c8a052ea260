"""Kubernetes Events, in the order in which things happened. A failed write affects no caller.

`kubectl describe` sorts by `lastTimestamp`, which has whole seconds, and leaves Events of the same
second in the order of their names, if they are in order already. So the name contains the time, and
only the last Event of an object becomes a series if it happens again. Objects with many Events are
held back, and no namespace waits for the Events of another.
"""

from __future__ import annotations

import logging
import time
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
from qwen_operator.kube.workqueue import WorkQueue
from qwen_operator.process.operator_metrics import WRITES

logger = logging.getLogger(__name__)

BURST: Final = 50
"""Events that an object may get at once."""
REFILL_SECONDS: Final = 5.0
"""After so many seconds an object may get one more."""
MAX_PENDING: Final = 500
"""Events of a namespace that wait to be written."""
_MAX_REMEMBERED: Final = 2000
# Limits of the API server for Events that have an eventTime, in bytes.
_MAX_MESSAGE: Final = 1024
_MAX_REPORTER: Final = 128
_COMPONENT: Final = "qwen-operator"


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
    action: str


@dataclass
class _Occurrences:
    """How often a message was emitted and not written yet, and when first and last."""

    first: datetime
    last: datetime
    count: int = 1


@dataclass
class _Series:
    """The last Event of an object: its name, and how often it happened in a row."""

    message: _Message
    name: str
    count: int


class _Allowance:
    """How many more Events each object may get. Objects without recent Events may get all."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, uid: str) -> bool:
        """Takes one. Returns False if there is none left."""
        now = self._clock()
        left, at = self._left.pop(uid, (float(BURST), now))
        left = min(BURST, left + (now - at) / REFILL_SECONDS)
        allowed = left >= 1
        self._left[uid] = (left - allowed, now)
        while len(self._left) > _MAX_REMEMBERED:
            self._left.popitem(last=False)
        return allowed


class Recorder:
    """Writes Events in the background, those of a namespace in order."""

    def __init__(
        self,
        kube: KubeClient,
        reporter: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._reporter = reporter[:_MAX_REPORTER] or _COMPONENT
        self._now = now
        self._allowance = _Allowance(clock)
        self._pending: dict[str, dict[_Message, _Occurrences]] = {}
        self._last: OrderedDict[str, _Series] = OrderedDict()
        self._stamp = 0
        self._queue: WorkQueue[str] = WorkQueue(self._write_next, _failed, rest=1.0)

    def emit(self, subject: Subject, kind: EventType, reason: str, text: str, *, action: str = "Reconcile") -> None:
        """Queues an Event about an object.

        It is dropped if the object or its namespace has too many. What happens again is counted
        all the same.
        """
        message = _Message(subject, kind, reason, _cut(text), action)
        now = self._now()
        pending = self._pending.setdefault(subject.namespace, {})
        if (known := pending.get(message)) is not None:
            known.count, known.last = known.count + 1, now
        elif len(pending) < MAX_PENDING and self._allowance.take(subject.uid):
            pending[message] = _Occurrences(now, now)
        elif (series := self._series(message)) is not None:
            series.count += 1
        else:
            logger.debug("too many events, dropped one", extra={"reason": reason, "object": subject.name})
        self._queue.add(subject.namespace, 0.0)

    async def run(self) -> None:
        """Writes until cancelled."""
        await self._queue.run()

    async def _write_next(self, namespace: str) -> None:
        """Writes the oldest Event of a namespace."""
        pending = self._pending.get(namespace, {})
        if pending:
            message = next(iter(pending))
            occurrences = pending.pop(message)
            try:
                await self._write(message, occurrences)
            except NamespaceEndingError:
                logger.debug("the namespace is being deleted: no event is written")
            except KubeError as error:
                logger.info("writing an event failed: %s", error, extra={"reason": message.reason})
        if pending:
            self._queue.add(namespace, 0.0)
        else:
            self._pending.pop(namespace, None)

    async def _write(self, message: _Message, happened: _Occurrences) -> None:
        WRITES.labels("Event").inc()
        known = self._series(message)
        if known is not None:
            known.count += happened.count
            last = happened.last
            body = {"series": _series(known.count, last), "count": known.count, "lastTimestamp": format_time(last)}
            try:
                await self._kube.patch(CORE_EVENTS, known.name, message.subject.namespace, body)
            except NotFoundError:
                pass  # it was too old
            else:
                self._last.move_to_end(message.subject.uid)
                return
        event = self._event(message, happened)
        await self._kube.create(event)
        self._last[message.subject.uid] = _Series(message, event["metadata"]["name"], happened.count)
        self._last.move_to_end(message.subject.uid)
        while len(self._last) > _MAX_REMEMBERED:
            self._last.popitem(last=False)

    def _series(self, message: _Message) -> _Series | None:
        """The last Event of an object, if it says the same."""
        last = self._last.get(message.subject.uid)
        return last if last is not None and last.message == message else None

    def _event(self, message: _Message, happened: _Occurrences) -> dict[str, Any]:
        subject = message.subject
        self._stamp = max(int(happened.first.timestamp() * 1_000_000) * 1000, self._stamp + 1)
        event = {
            "apiVersion": CORE_EVENTS.api_version,
            "kind": CORE_EVENTS.kind,
            "metadata": {"name": f"{subject.name[:230]}.{self._stamp:x}", "namespace": subject.namespace},
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
            "action": message.action,
            "eventTime": _micro_time(happened.first),
            "firstTimestamp": format_time(happened.first),
            "lastTimestamp": format_time(happened.last),
            "count": happened.count,
            "source": {"component": _COMPONENT},
            "reportingComponent": _COMPONENT,
            "reportingInstance": self._reporter,
        }
        if happened.count > 1:
            event["series"] = _series(happened.count, happened.last)
        return event


def _series(count: int, last: datetime) -> dict[str, Any]:
    return {"count": count, "lastObservedTime": _micro_time(last)}


def _micro_time(moment: datetime) -> str:
    """A time as `metav1.MicroTime`: UTC, always six digits after the point."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _cut(text: str) -> str:
    """The text, cut to the limit of the API server, which counts bytes."""
    return text.encode()[:_MAX_MESSAGE].decode(errors="ignore")


def _failed(namespace: str, error: Exception, _: int) -> None:
    logger.error("writing events failed", exc_info=error, extra={"namespace": namespace})
