"""Opens the readiness gates of new pods: the operator's first duty, in a task of its own.

A new pod gets one attempt to show its metrics, which takes a second at most; then its gate opens, whatever came of it.
Nothing else is needed for that: no spec that makes sense, no reconciliation that works.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.informer import Informer
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.values import Gate
from qwen_operator.remediation.views import gate_of, pod_ip, pod_view
from qwen_operator.remediation.writes import Writer
from qwen_operator.status.diagnosis import is_active

logger = logging.getLogger(__name__)

_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0)
_AT_ONCE: Final = 32


class GateKeeper:
    """Watches for pods whose gate nobody has written yet."""

    def __init__(self, pods: Informer, poller: Poller, writer: Writer) -> None:
        self._pods = pods
        self._poller = poller
        self._writer = writer
        self._waiting: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        self._known: set[str] = set()

    def offer(self, pod: dict[str, Any]) -> None:
        """A pod that came or changed; its gate is opened when it is new and has an address."""
        metadata = pod["metadata"]
        if gate_of(pod) is Gate.UNSET and pod_ip(pod) and is_active(pod) and metadata["uid"] not in self._known:
            self._known.add(metadata["uid"])
            self._waiting.put_nowait((metadata["namespace"], metadata["name"], metadata["uid"]))

    async def run(self) -> None:
        """Opens gates until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            namespace, name, uid = await self._waiting.get()
            try:
                await self._open(namespace, name, uid)
            except Exception:  # whatever it is: the other pods' gates must open
                logger.exception("a gate could not be opened", extra={"namespace": namespace, "pod": name})
            finally:
                self._known.discard(uid)

    async def _open(self, namespace: str, name: str, uid: str) -> None:
        for attempt in range(1000):
            pod = self._pods.get(namespace, name)
            if pod is None or pod["metadata"]["uid"] != uid or not is_active(pod) or gate_of(pod) is not Gate.UNSET:
                return
            if attempt == 0:
                await self._poller.metrics(pod_ip(pod))
            try:
                await self._writer.set_gate(
                    pod_view(pod), namespace, is_open=True, reason="NewPod", message="a new pod"
                )
            except KubeError as error:
                logger.warning("a gate cannot be opened: %s", error, extra={"namespace": namespace, "pod": name})
                await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            else:
                logger.info("gate opened", extra={"namespace": namespace, "pod": name})
                return
