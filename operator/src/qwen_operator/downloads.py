"""Asks the pods of download Jobs how far they are, now and then."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from qwen_operator.api.objects import Key, Object
from qwen_operator.status.download import Figures, read_figures

ASK_SECONDS: Final = 10.0
_SLOWEST_SECONDS: Final = 60.0

Ask = Callable[[str], Awaitable[bytes | None]]


@dataclass
class _Look:
    """What the pod with this UID said last, and when it is asked next, after which pause."""

    uid: str
    due: float
    pause: float = ASK_SECONDS
    figures: Figures | None = None


class Downloads:
    """The figures of all downloads.

    `ask(address)` returns what a pod says, None if it does not answer within a second. `again(key,
    seconds)` is called for a service that must be looked at later.
    """

    def __init__(self, ask: Ask, again: Callable[[Key, float], None]) -> None:
        self._ask = ask
        self._again = again
        self._looks: dict[Key, _Look] = {}

    def forget(self, key: Key) -> None:
        """Drops what is known about the download of a service."""
        self._looks.pop(key, None)

    async def of(self, key: Key, pods: Sequence[Object]) -> Figures | None:
        """What the running pod of a download has said last; None if it has said nothing."""
        pod = next((pod for pod in pods if _address(pod)), None)
        if pod is None:
            self.forget(key)
            return None
        now, uid = time.monotonic(), pod["metadata"]["uid"]
        look = self._looks.get(key)
        if look is None or look.uid != uid:
            look = self._looks[key] = _Look(uid, now)
        if look.due <= now:
            figures = read_figures(await self._ask(_address(pod)))
            # A pod that cannot be reached, because of a NetworkPolicy for instance, is asked less
            # often.
            look.pause = ASK_SECONDS if figures is not None else min(2 * look.pause, _SLOWEST_SECONDS)
            look.figures = figures or look.figures
            look.due = now + look.pause
        self._again(key, max(0.1, look.due - now))
        return look.figures


def _address(pod: Object) -> str:
    """The address of a pod that runs; empty if it does not."""
    status = pod.get("status") or {}
    return str(status.get("podIP") or "") if status.get("phase") == "Running" else ""
