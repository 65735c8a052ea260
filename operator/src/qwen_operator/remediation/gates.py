"""Opens the readiness gates of new pods. It runs in a task of its own.

A new pod is polled once, for at most a second. Then its gate opens, whatever the result. This needs
neither a valid spec nor a working reconciliation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.informer import Informer
from qwen_operator.remediation.policy import POLL_SECONDS
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.values import Gate
from qwen_operator.remediation.views import gate_of, pod_ip, pod_view
from qwen_operator.remediation.writes import Writer
from qwen_operator.status.diagnosis import is_active

logger = logging.getLogger(__name__)

_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0)
_AT_ONCE: Final = 32


class GateKeeper:
    """Opens the gates of pods whose gate was never written."""

    def __init__(self, pods: Informer, poller: Poller, writer: Writer) -> None:
        self._pods = pods
        self._poller = poller
        self._writer = writer
        self._waiting: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        self._known: set[str] = set()

    def offer(self, pod: dict[str, Any]) -> None:
        """Handles a new or changed pod.

        Its gate is opened if it is unset and the pod has an address.
        """
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
            except Exception:  # the gates of the other pods must open
                logger.exception("opening a gate failed", extra={"namespace": namespace, "pod": name})
            finally:
                self._known.discard(uid)

    async def _open(self, namespace: str, name: str, uid: str) -> None:
        for attempt in range(1000):
            pod = self._pods.get(namespace, name)
            if pod is None or pod["metadata"]["uid"] != uid or not is_active(pod) or gate_of(pod) is not Gate.UNSET:
                return
            if attempt == 0:
                # Its namespace may have no slot left. The workers are there for all of them.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._poller.metrics(pod_ip(pod), namespace)
            try:
                await self._writer.set_gate(
                    pod_view(pod), namespace, is_open=True, reason="NewPod", message="it is a new pod"
                )
            except KubeError as error:
                logger.warning("opening a gate failed: %s", error, extra={"namespace": namespace, "pod": name})
                await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            else:
                logger.info("opened a gate", extra={"namespace": namespace, "pod": name})
                return
