"""Which nodes are ready. They are read only for pods that may be taken out or restarted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Final

from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.resources import NODES

NODE_SECONDS: Final = 15.0
"""Seconds for which an answer counts."""
LOOK_SECONDS: Final = 10.0
"""Seconds that a round waits for answers at most."""
_AT_ONCE: Final = 8


class Nodes:
    """The nodes of the cluster. One that cannot be read, or not in time, counts as ready."""

    def __init__(self, kube: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._known: dict[str, tuple[float, bool]] = {}

    async def not_ready(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the nodes that are not ready."""
        now = self._clock()
        self._known = {name: known for name, known in self._known.items() if now - known[0] <= NODE_SECONDS}
        wanted = {name for name in names if name}
        unknown, slots = sorted(wanted - self._known.keys()), asyncio.Semaphore(_AT_ONCE)
        if unknown:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await asyncio.gather(*(self._look(name, slots) for name in unknown))
        return frozenset(name for name in wanted if name in self._known and not self._known[name][1])

    async def _look(self, name: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                node = await self._kube.get(NODES, name)
            except KubeError:
                node = {}
        conditions = (node.get("status") or {}).get("conditions") or ()
        ready = all(item.get("status") == "True" for item in conditions if item["type"] == "Ready")
        self._known[name] = (self._clock(), ready)
