"""Opens the readiness gates of new pods. It runs in a task of its own.

A new pod is polled once, for at most a second. Then its gate opens, whatever the result. This needs
neither a valid spec nor a working reconciliation. No namespace waits for the gates of another, and
no service for those of another in its namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final, NamedTuple

from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.fair_queue import FairQueue
from qwen_operator.kube.informer import Informer, service_label
from qwen_operator.remediation.policy import POLL_SECONDS
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.values import Gate
from qwen_operator.remediation.views import gate_of, pod_ip, pod_view
from qwen_operator.remediation.writes import Writer
from qwen_operator.status.diagnosis import is_active

logger = logging.getLogger(__name__)

_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0)
_AT_ONCE: Final = 32


class _NewPod(NamedTuple):
    """A pod whose gate is to be opened, and how often that has failed."""

    namespace: str
    name: str
    uid: str
    failures: int = 0


class GateKeeper:
    """Opens the gates of pods whose gate was never written."""

    def __init__(self, pods: Informer, poller: Poller, writer: Writer) -> None:
        self._pods = pods
        self._poller = poller
        self._writer = writer
        self._waiting: FairQueue[_NewPod] = FairQueue()
        self._known: set[str] = set()

    def offer(self, pod: dict[str, Any]) -> None:
        """Handles a new or changed pod.

        Its gate is opened if it is unset and the pod has an address.
        """
        metadata = pod["metadata"]
        if gate_of(pod) is Gate.UNSET and pod_ip(pod) and is_active(pod) and metadata["uid"] not in self._known:
            self._known.add(metadata["uid"])
            new = _NewPod(metadata["namespace"], metadata["name"], metadata["uid"])
            self._waiting.put((new.namespace, service_label(pod)), new)

    async def run(self) -> None:
        """Opens gates until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            service, new = await self._waiting.get()
            done = True
            try:
                done = await self._open(new)
            except Exception:  # the gates of the other pods must open
                logger.exception("opening a gate failed", extra={"namespace": new.namespace, "pod": new.name})
            finally:
                self._waiting.done(service)
            if done:
                self._known.discard(new.uid)
            else:  # nobody waits for the next try
                pause = _BACKOFF[min(new.failures, len(_BACKOFF) - 1)]
                again = new._replace(failures=new.failures + 1)
                asyncio.get_running_loop().call_later(pause, self._waiting.put, service, again)

    async def _open(self, new: _NewPod) -> bool:
        """Opens the gate of a pod. Returns False if it must be tried again."""
        namespace, name, uid, failures = new
        pod = self._pods.get(namespace, name)
        if pod is None or pod["metadata"]["uid"] != uid or not is_active(pod) or gate_of(pod) is not Gate.UNSET:
            return True
        if failures == 0:
            # Its namespace may have no slot left. The workers are there for all of them.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._poller.metrics(pod_ip(pod), namespace, service_label(pod))
        try:
            await self._writer.set_gate(
                pod_view(pod), namespace, is_open=True, reason="NewPod", message="it is a new pod"
            )
        except KubeError as error:
            logger.warning("opening a gate failed: %s", error, extra={"namespace": namespace, "pod": name})
            return False
        logger.info("opened a gate", extra={"namespace": namespace, "pod": name})
        return True
