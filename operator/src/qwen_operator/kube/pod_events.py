"""The Events of pods that are held up: only they say that, for instance, a Secret is missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qwen_operator.api.objects import Key, Object
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.resources import CORE_EVENTS

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 2.0
"""Most pods have started by then, and their Events are never read."""
_MAX_SECONDS: Final = 60.0
_MAX_PODS: Final = 5


@dataclass
class _Look:
    """The Events of a pod as they were last read, and when and after which pause they are next."""

    due: float
    pause: float = FIRST_SECONDS
    events: Sequence[Object] = ()


class PodEvents:
    """Reads the Events of pods, less and less often.

    `again(key, seconds)` is called for a service whose pods must be looked at again.
    """

    def __init__(self, kube: KubeClient, again: Callable[[Key, float], None]) -> None:
        self._kube = kube
        self._again = again
        self._looks: dict[Key, dict[str, _Look]] = {}

    def forget(self, key: Key) -> None:
        """Drops what is known about the pods of a service."""
        self._looks.pop(key, None)

    async def of(self, key: Key, pods: Sequence[Object]) -> Mapping[str, Sequence[Object]]:
        """The Events by the UID of the pod, for the pods of a service that are held up.

        Of many such pods only some are asked: they have the same template.
        """
        known, now = self._looks.get(key, {}), time.monotonic()
        uids = [(pod["metadata"]["uid"], pod["metadata"]["name"]) for pod in pods[:_MAX_PODS]]
        looks = {uid: known.get(uid) or _Look(now + FIRST_SECONDS) for uid, _ in uids}
        for uid, name in uids:
            look = looks[uid]
            if look.due <= now:
                look.events = await self._read(key, uid, name, look.events)
                look.pause = min(2 * look.pause, _MAX_SECONDS)
                look.due = now + look.pause
        if looks:
            self._looks[key] = looks
            self._again(key, max(0.1, min(look.due for look in looks.values()) - now))
        else:
            self.forget(key)
        return {uid: look.events for uid, look in looks.items()}

    async def _read(self, key: Key, uid: str, name: str, before: Sequence[Object]) -> Sequence[Object]:
        try:
            events, _ = await self._kube.list(CORE_EVENTS, key[0], fields=f"involvedObject.uid={uid}")
        except KubeError as error:
            logger.debug("reading the Events of pod %s failed: %s", name, error)
            return before
        return events
