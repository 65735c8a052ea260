"""The Events of pods that are held up: only they say that, for instance, a Secret is missing.

Those of a Job without a pod say why its pods are refused.

Whoever may create Events in a namespace may give a pod any number of any size. They are read in the
background, so that no reconciliation waits for them, and only so much of them as the status needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from qwen_operator.api.names import CLAIM_NOT_FOUND
from qwen_operator.api.objects import Key, Object
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError, NotFoundError
from qwen_operator.kube.resources import CORE_EVENTS, RESOURCE_CLAIMS

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 2.0
"""Most pods have started by then, and their Events are never read."""
READ_SECONDS: Final = 5.0
MAX_BYTES: Final = 1024 * 1024
MAX_EVENTS: Final = 50
AT_ONCE: Final = 8
"""Reads at the same time. A namespace has one of them."""
AGAIN_SECONDS: Final = 5.0
"""Some Events come minutes after the pod, such as those about volumes that cannot be attached."""
A_SECOND: Final = 2
"""Reads a second, about. Each namespace with pods that are held up has the same share of them, so
the more such pods it has, the less often each is read."""
_MAX_SECONDS: Final = 60.0
_AGING: Final = 60.0
_MAX_PODS: Final = 5
_MAX_CLAIMS: Final = 8
_MAX_TEXT: Final = 1024
_TEXTS: Final = ("reason", "message", "firstTimestamp", "lastTimestamp", "eventTime")


@dataclass
class _Look:
    """The Events of a pod as they were last read, since when it is held up, and when it is next."""

    begun: float
    due: float
    events: Sequence[Object] = ()


class _Held(NamedTuple):
    """A pod that is held up, and the ResourceClaims that it names, before it is scheduled."""

    uid: str
    name: str
    claims: Sequence[str]


class PodEvents:
    """Reads the Events of pods: soon after they come, but of pods that stay held up less often.

    `again(key, seconds)` is called for a service whose pods must be looked at again.
    """

    def __init__(self, kube: KubeClient, again: Callable[[Key, float], None]) -> None:
        self._kube = kube
        self._again = again
        self._looks: dict[Key, dict[str, _Look]] = {}
        self._reading: dict[Key, asyncio.Task[None]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._places = asyncio.Semaphore(AT_ONCE)

    def forget(self, key: Key) -> None:
        """Drops what is known about the pods of a service."""
        self._looks.pop(key, None)
        if (task := self._reading.pop(key, None)) is not None:
            task.cancel()

    async def of(self, key: Key, pods: Sequence[Object]) -> Mapping[str, Sequence[Object]]:
        """The Events by the UID of the pod, for the pods of a service that are held up.

        They are those that were read last; the service is looked at again when there are others. Of
        many such pods only some are asked: they have the same template.
        """
        known, now = self._looks.get(key, {}), time.monotonic()
        held = [_held(pod) for pod in pods[:_MAX_PODS]]
        looks = {pod.uid: known.get(pod.uid) or _Look(now, now + FIRST_SECONDS) for pod in held}
        due = [pod for pod in held if looks[pod.uid].due <= now]
        if looks:
            self._looks[key] = looks
            for pod in due:
                looks[pod.uid].due = now + self._pause(key[0], now - looks[pod.uid].begun)
            self._again(key, max(0.1, min(look.due for look in looks.values()) - now))
        else:
            self.forget(key)
        if due and key not in self._reading:
            task = self._reading[key] = asyncio.create_task(self._read(key, due), name=f"events of {key[0]}/{key[1]}")
            task.add_done_callback(lambda done: self._ended(key, done))
        return {uid: look.events for uid, look in looks.items()}

    def _pause(self, namespace: str, age: float) -> float:
        """Seconds until the Events of a pod are read again that has been held up for so long."""
        pods = sum(len(looks) for key, looks in self._looks.items() if key[0] == namespace)
        namespaces = len({key[0] for key in self._looks})
        return min(_MAX_SECONDS, max(AGAIN_SECONDS, pods * namespaces / A_SECOND, age / _AGING))

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        if self._reading.get(key) is task:
            del self._reading[key]

    async def _read(self, key: Key, pods: Sequence[_Held]) -> None:
        turn = self._turns.setdefault(key[0], asyncio.Lock())
        for pod in pods:
            async with turn, self._places:
                events = await self._events(key[0], pod)
            look = self._looks.get(key, {}).get(pod.uid)
            if look is not None and events is not None and events != look.events:
                look.events = events
                self._again(key, 0.0)

    async def _events(self, namespace: str, pod: _Held) -> Sequence[Object] | None:
        """The Events of a pod, None if they cannot be read."""
        try:
            events = await self._kube.first(
                CORE_EVENTS,
                namespace,
                f"involvedObject.uid={pod.uid}",
                limit=MAX_EVENTS,
                most=MAX_BYTES,
                timeout=READ_SECONDS,
            )
            return [*(_kept(event) for event in events), *await self._missing(namespace, pod.claims)]
        except Exception as error:  # noqa: BLE001 - the status then has a reason that says less
            logger.debug("reading the Events of pod %s failed: %s", pod.name, error)
            return None

    async def _missing(self, namespace: str, claims: Sequence[str]) -> Sequence[Object]:
        """What an Event would say about those of the claims that do not exist.

        There is none: the scheduler does not take up a pod before its claims exist.
        """
        names: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_SECONDS):
                names = [name for name in claims if await self._lacks(namespace, name)]
        message = ", ".join(f'resourceclaim "{name}" not found' for name in names)
        return [{"reason": CLAIM_NOT_FOUND, "message": message}] if names else ()

    async def _lacks(self, namespace: str, claim: str) -> bool:
        """Whether a ResourceClaim certainly does not exist."""
        try:
            await self._kube.get(RESOURCE_CLAIMS, claim, namespace)
        except NotFoundError as error:
            return f'"{claim}" not found' in error.message  # otherwise the API is missing
        except KubeError as error:
            logger.debug("reading the ResourceClaim %s/%s failed: %s", namespace, claim, error)
        return False


def _held(pod: Object) -> _Held:
    metadata, conditions = pod["metadata"], (pod.get("status") or {}).get("conditions") or ()
    claims = (pod.get("spec") or {}).get("resourceClaims") or ()
    seen = any(item["type"] == "PodScheduled" for item in conditions)
    names = [claim["resourceClaimName"] for claim in claims if claim.get("resourceClaimName") and not seen]
    return _Held(metadata["uid"], metadata["name"], names[:_MAX_CLAIMS])


def _kept(event: Object) -> Object:
    """What the status needs of an Event."""
    kept: Object = {name: str(event[name])[:_MAX_TEXT] for name in _TEXTS if event.get(name)}
    seen = (event.get("series") or {}).get("lastObservedTime")
    return kept | ({"series": {"lastObservedTime": str(seen)[:_MAX_TEXT]}} if seen else {})
