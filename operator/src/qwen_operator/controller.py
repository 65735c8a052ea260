"""Wires together everything that runs while this process is the leader."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

from qwen_operator.api.objects import Key, Object, key_of
from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError, RefusedError
from qwen_operator.kube.events import Recorder
from qwen_operator.kube.workqueue import WorkQueue
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import QUEUE, RECONCILE_SECONDS, RECONCILES, SERVICES
from qwen_operator.process.settings import Settings
from qwen_operator.reconcile import Reconciler
from qwen_operator.remediation.gates import GateKeeper
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.remediator import Remediator
from qwen_operator.remediation.revisions import Revisions
from qwen_operator.remediation.writes import Writer

logger = logging.getLogger(__name__)

POD_DEBOUNCE: Final = 0.3
_BEAT: Final = "resync"
_BLIND_SECONDS: Final = 2.0
"""After so many seconds a service is tried again whose namespace cannot be seen."""

_SILENCE: Final = 60.0
"""Seconds without news beyond a resync after which the operator is not ready."""


class Controller:
    """The tasks of the leader. Only tests pass a `poller`."""

    def __init__(self, kube: KubeClient, settings: Settings, health: Health, poller: Poller | None = None) -> None:
        self._kube = kube
        self._settings = settings
        self._health = health
        self._poller = poller or Poller(keys=settings.metrics_keys)
        self._recorder = Recorder(kube, settings.pod_name)
        self._queue: WorkQueue[Key] = WorkQueue(self._reconcile, self._failed, tenant=lambda key: key[0])
        self.cluster = ClusterCache(
            kube,
            settings.watch_namespaces,
            on_child=self._queue.add,
            on_pod=self._pod_changed,
            on_api=self._all_due,
            on_service=self._service_changed,
            relist=settings.resync_seconds,
            health=health,
        )
        writer = Writer(kube, self._recorder, self.cluster.pod_informer.store, self.cluster.store_service)
        self._gates = GateKeeper(self.cluster.pod_informer, self._poller, writer)
        self._remediator = Remediator(
            kube, self.cluster, self._poller, writer, health=health, on_change=self._queue.add
        )
        self._revisions = Revisions(kube)
        self._reconciler = Reconciler(
            kube,
            self.cluster,
            self._recorder,
            settings,
            suspended=self._remediator.suspended,
            gone=self.service_gone,
            again=self._queue.add,
            outlook=self._remediator.outlook,
            ask=self._poller.progress,
            load=self._remediator.warnings,
            adapters=self._remediator.adapters,
            engines=self._remediator.engines,
            newest=self._revisions.newest,
        )
        self._matters: dict[Key, tuple[Any, ...]] = {}
        self._ended = False

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(), name="readiness")
                tasks.create_task(self._recorder.run(), name="events")
                tasks.create_task(self._gates.run(), name="gates")
                await self.cluster.start(tasks)
                tasks.create_task(self.cluster.keep_discovering(), name="discovery")
                tasks.create_task(self._queue.run(), name="reconcile")
                tasks.create_task(self._resync(), name="resync")
        finally:
            self._ended = True
            self._health.ready = False
            await self._remediator.stop()
            await self.cluster.stop()
            await self._poller.close()

    def _service_changed(self, obj: Object) -> None:
        live = self.cluster.service(key_of(obj))
        if live is None:
            self.service_gone(key_of(obj))
        else:
            self.service_seen(live)

    def service_seen(self, obj: Object) -> None:
        """Handles a new or changed QwenService."""
        if self._ended:
            return
        key, matters = key_of(obj), _matters(obj)
        SERVICES.set(len(self.cluster.services))
        if self.cluster.sees(key[0]):
            self._remediator.sync(key)
        if self._matters.get(key) != matters:
            self._matters[key] = matters
            # What a user changes, or has changed while no operator acted, does not wait behind the
            # services that were there at the start.
            self._queue.add(key, first=self.cluster.service_informer.synced.is_set() or _is_pending(obj))

    def service_gone(self, key: Key) -> None:
        """Handles a deleted QwenService. Kubernetes removes the objects that it owned."""
        self.cluster.forget_service(key)
        self._matters.pop(key, None)
        SERVICES.set(len(self.cluster.services))
        self._remediator.sync(key)
        self._queue.forget(key)
        self._reconciler.forget(key)
        self._revisions.forget(key)
        if not self.cluster.services:
            self._health.forget("reconcile")

    def _pod_changed(self, pod: Object) -> None:
        self._gates.offer(pod)
        key = self.cluster.key_by_label(pod)
        if key is not None:
            self._remediator.pod_seen(key, pod)
            self._queue.add(key, POD_DEBOUNCE)

    def _all_due(self) -> None:
        for key in self.cluster.services:
            self._queue.add(key)

    async def _resync(self) -> None:
        """Lets each service be due once in a resync, one after another: all at once would delay the
        polls of pods.
        """
        seconds = self._settings.resync_seconds
        self._health.beat(_BEAT, self._patience())
        await asyncio.sleep(seconds)
        while True:
            self._health.beat(_BEAT, self._patience())
            began, keys = time.monotonic(), list(self.cluster.services)
            for number, key in enumerate(keys, start=1):
                if key in self.cluster.services:
                    self._queue.add(key)
                await asyncio.sleep(began + seconds * number / len(keys) - time.monotonic())
            if not keys:
                await asyncio.sleep(seconds)

    async def _report(self) -> None:
        """Keeps the process ready as long as it hears about QwenServices and sees what belongs to
        them, in whatever namespace.
        """
        while True:
            silence = self.cluster.service_informer.silence()
            heard = silence < self._settings.resync_seconds + _SILENCE
            self._health.ready = heard and self.cluster.sees_any()
            await asyncio.sleep(0.5)

    def _patience(self) -> float:
        """Seconds within which the next beat of a loop is due."""
        return 3 * self._settings.resync_seconds + 60.0

    async def _reconcile(self, key: Key) -> None:
        QUEUE.set(len(self._queue))
        if not self.cluster.sees(key[0]):
            logger.info("waiting for the objects of a namespace", extra={"namespace": key[0], "service": key[1]})
            self._queue.add(key, _BLIND_SECONDS)
            return
        self._remediator.sync(key)
        started = time.monotonic()
        try:
            failure = await self._reconciler.reconcile(key)
        finally:
            if self.cluster.services:
                self._health.beat("reconcile", self._patience())
        RECONCILE_SECONDS.observe(time.monotonic() - started)
        RECONCILES.labels(_result(failure)).inc()
        if failure is not None:
            where = {"namespace": key[0], "service": key[1]}
            logger.warning("a write failed and is tried again: %s", failure, extra=where)

    def _failed(self, key: Key, error: Exception, failures: int) -> None:
        RECONCILES.labels(_result(error)).inc()
        where: dict[str, Any] = {"namespace": key[0], "service": key[1], "failures": failures}
        if isinstance(error, KubeError):
            logger.warning("reconciliation failed: %s", error, extra=where)
        else:
            logger.error("reconciliation failed", exc_info=error, extra=where)


def _result(error: Exception | None) -> str:
    """How a reconciliation counts: what a quota or a policy refuses is no error of the operator."""
    if error is None:
        return "ok"
    return "refused" if isinstance(error, RefusedError) else "error"


def _is_pending(obj: Object) -> bool:
    """Whether a QwenService was changed after an operator last wrote its status."""
    observed = (obj.get("status") or {}).get("observedGeneration")
    return bool(observed != obj["metadata"].get("generation"))


def _matters(obj: Object) -> tuple[Any, ...]:
    """The parts of a QwenService whose change requires a reconciliation.

    Its status is none of them.
    """

    metadata = obj["metadata"]
    names = ("uid", "generation", "labels", "annotations", "deletionTimestamp")
    return tuple(metadata.get(name) for name in names)
