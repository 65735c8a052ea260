"""Asks the pods of download Jobs how far they are, now and then.

They are asked in the background, so that no reconciliation waits for a pod.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from qwen_operator.api.objects import Key, Object
from qwen_operator.status.download import Figures, read_figures

ASK_SECONDS: Final = 10.0
_SLOWEST_SECONDS: Final = 60.0
_SOONEST_SECONDS: Final = 0.1

Ask = Callable[[str, str], Awaitable[bytes | None]]
"""What the pod with this address, in this namespace, says about its progress."""


@dataclass
class _Look:
    """What the pod with this UID said last, and when it is asked next, after which pause."""

    uid: str
    due: float
    pause: float = ASK_SECONDS
    figures: Figures | None = None


class Downloads:
    """The figures of all downloads.

    `ask(address, namespace)` returns what a pod says, None if it does not answer within a second.
    `again(key, seconds)` is called for a service that must be looked at later.
    """

    def __init__(self, ask: Ask, again: Callable[[Key, float], None]) -> None:
        self._ask = ask
        self._again = again
        self._looks: dict[Key, _Look] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}

    def forget(self, key: Key) -> None:
        """Drops what is known about the download of a service."""
        self._looks.pop(key, None)
        if (task := self._asking.pop(key, None)) is not None:
            task.cancel()

    def of(self, key: Key, pods: Sequence[Object]) -> Figures | None:
        """What the running pod of a download has said last; None if it has said nothing.

        The service is looked at again when there are other figures.
        """
        pod = next((pod for pod in pods if _address(pod)), None)
        if pod is None:
            self.forget(key)
            return None
        now, uid = time.monotonic(), pod["metadata"]["uid"]
        look = self._looks.get(key)
        if look is None or look.uid != uid:
            self.forget(key)
            look = self._looks[key] = _Look(uid, now)
        if look.due <= now and key not in self._asking:
            look.due = now + look.pause
            name = f"download of {key[0]}/{key[1]}"
            task = self._asking[key] = asyncio.create_task(self._update(key, look, _address(pod)), name=name)
            task.add_done_callback(lambda done: self._ended(key, done))
        self._again(key, max(_SOONEST_SECONDS, look.due - now))
        return look.figures

    async def _update(self, key: Key, look: _Look, address: str) -> None:
        known, found = look.figures, read_figures(await self._ask(address, key[0]))
        if found is not None:
            look.figures, look.pause = found, ASK_SECONDS
        else:
            # A pod that cannot be reached, because of a NetworkPolicy for instance, is asked less
            # often. The bytes are still there, but nobody knows how fast there are more.
            look.figures = None if known is None else replace(known, rate=None, seconds=None)
            look.pause = min(2 * look.pause, _SLOWEST_SECONDS)
        look.due = time.monotonic() + look.pause
        if look.figures != known:
            self._again(key, 0.0)

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        if self._asking.get(key) is task:
            del self._asking[key]


def _address(pod: Object) -> str:
    """The address of a pod that runs; empty if it does not."""
    status = pod.get("status") or {}
    return str(status.get("podIP") or "") if status.get("phase") == "Running" else ""
