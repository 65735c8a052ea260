"""Watches that keep a copy of the objects that they see.

Each namespace has a loop of its own: it lists, then watches from the version of the list. Whatever
goes wrong, the loop tries again, and nothing that goes wrong in one namespace affects another. What
a watch did not report, a deletion in a gap for instance, is found by comparing the next list with
the copy. kopf's own watches do none of this (docs/decisions/0009-what-kopf-does-here.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from qwen_operator.api.names import SERVICE_LABEL
from qwen_operator.api.objects import Key, Object, key_of
from qwen_operator.kube.client import WATCH_SECONDS, WATCH_SILENCE, KubeClient
from qwen_operator.kube.errors import NotFoundError
from qwen_operator.kube.projection import keeper
from qwen_operator.kube.resources import Resource
from qwen_operator.kube.retries import must_list, pause
from qwen_operator.kube.states import later, newer, same, same_but_status
from qwen_operator.process.health import Health
from qwen_operator.process.operator_metrics import FAILING_WATCHES, WATCHES

logger = logging.getLogger(__name__)

OnChange = Callable[[Object], None]

SELECTOR: Final = "app.kubernetes.io/managed-by=qwen-operator"
BEAT_SECONDS: Final = WATCH_SILENCE + 80.0
"""Within so many seconds a loop lists, hears something or fails, and tries again."""

SHORT_SECONDS: Final = 1.0
"""A watch that ends sooner and without an event counts as failed."""

_TRIES: Final = 3
"""After so many failures in a row, the start no longer waits for a namespace."""
ALONE_SECONDS: Final = 5.0
"""For so long the first list of a namespace has the others wait."""
START_SECONDS: Final = 20.0
"""For so long the start waits for lists that neither come nor fail."""
FAILING: Final = 2
"""A watch that has failed so often in a row counts as failing: each fails once in a while."""

_REMEMBERED: Final = 1000
"""So many deleted objects are remembered, by UID, with the version of the deletion if known."""


def service_label(obj: Object) -> str:
    """The label with the service that an object belongs to; empty if it has none."""
    return str((obj["metadata"].get("labels") or {}).get(SERVICE_LABEL, ""))


@dataclass
class _Loop:
    """The state of the loop of one namespace."""

    namespace: str | None
    version: str = ""
    listed_at: float = -math.inf
    heard_at: float = -math.inf
    failures: int = 0
    absences: int = 0
    failing: bool = False


class Informer:
    """The objects of one kind with a label, kept up to date by lists and watches.

    `on_change` is called with each object that was added, changed or deleted (then with its last
    known state). Objects are shared: do not modify them. With `relist`, a list is compared with the
    copy at least every so many seconds, also while the watch seems to work. `removable` says that
    the kind's definition may be deleted, so that a persistent 404 means that there are no objects.
    Without `echoes`, it is not called for what a watch reports of a write whose answer is stored
    already, and without `status`, not if only the status has changed.
    """

    def __init__(
        self,
        kube: KubeClient,
        resource: Resource,
        namespaces: Sequence[str],
        on_change: OnChange,
        selector: str = SELECTOR,
        *,
        relist: float = math.inf,
        removable: bool = False,
        echoes: bool = True,
        status: bool = True,
        group: Callable[[Object], str] = service_label,
        health: Health | None = None,
    ) -> None:
        self.resource = resource
        self._group = group
        self._keep = keeper(resource)
        self._echoes = echoes
        self._status = status
        self._removable = removable
        self._kube = kube
        self._loops = [_Loop(namespace) for namespace in namespaces or (None,)]
        self._first = asyncio.Lock()
        self._on_change = on_change
        self._selector = selector or None
        self._relist = relist
        self._health = health or Health()
        self._objects: dict[Key, Object] = {}
        self._groups: dict[Key, set[Key]] = {}
        self._stored_at: dict[Key, float] = {}
        self._deleted: OrderedDict[str, str] = OrderedDict()
        self._listed: set[str | None] = set()
        self._pending = {loop.namespace for loop in self._loops}
        self.synced = asyncio.Event()

    @property
    def objects(self) -> Mapping[Key, Object]:
        """All objects."""
        return self._objects

    def get(self, namespace: str, name: str) -> Object | None:
        """One object, None if it does not exist."""
        return self._objects.get((namespace, name))

    def in_group(self, namespace: str, group: str) -> list[Object]:
        """The objects of a group, by name."""
        return [self._objects[key] for key in sorted(self._groups.get((namespace, group), ()))]

    def sees(self, namespace: str) -> bool:
        """Whether the objects of a namespace have been listed."""
        return bool({None, namespace} & self._listed)

    def silence(self) -> float:
        """Seconds since the API server reported anything of this kind, in whatever namespace."""
        return asyncio.get_running_loop().time() - max(loop.heard_at for loop in self._loops)

    def store(self, obj: Object) -> None:
        """Stores a newer state that a write returned, so that nobody acts on the old one until the
        watch delivers it.
        """
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None and old["metadata"]["uid"] == obj["metadata"]["uid"]:
            self.put(obj)

    def put(self, obj: Object) -> None:
        """Stores an object, also one that is not known.

        Unless a newer state of it is known or it was deleted: an answer may come after what the
        watch reports. An answer that is newer than the deletion is believed: to a watch, an object
        is also deleted when somebody takes its label away.
        """
        obj = self._keep(obj)
        key, uid = key_of(obj), obj["metadata"]["uid"]
        exists = uid not in self._deleted or later(obj, self._deleted[uid])
        if exists and newer(obj, self._objects.get(key)):
            self._deleted.pop(uid, None)
            self._put(key, obj)
            self._stored_at[key] = asyncio.get_running_loop().time()

    def discard(self, key: Key, version: str = "") -> None:
        """Removes an object of which is known that it was deleted, perhaps in which version."""
        old = self._objects.pop(key, None)
        self._stored_at.pop(key, None)
        if old is not None:
            self._unindex(key, old)
            self._deleted[old["metadata"]["uid"]] = version
            if len(self._deleted) > _REMEMBERED:
                self._deleted.popitem(last=False)

    async def run(self) -> None:
        """Lists and watches until cancelled."""
        FAILING_WATCHES.labels(self.resource.kind)  # from now on it exists: 0 until one fails
        WATCHES.labels(self.resource.kind).set(len(self._loops))
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in self._loops:
                    tasks.create_task(self._follow(loop))
        finally:
            WATCHES.labels(self.resource.kind).set(0)
            for loop in self._loops:
                self._health.forget(self._part(loop))
                self._count(loop, failing=False)

    def _part(self, loop: _Loop) -> str:
        where = "" if loop.namespace is None else f" in {loop.namespace}"
        return f"watch of {self.resource.plural}{where}"

    async def _follow(self, loop: _Loop) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._health.beat(self._part(loop), BEAT_SECONDS)
            started, problem = clock(), None
            try:
                await self._once(loop)
            except Exception as error:  # noqa: BLE001 - a watch that ends would leave the operator deaf
                problem = error
            if problem is None and clock() - started >= SHORT_SECONDS:
                loop.failures = 0
                self._count(loop, failing=False)
                continue
            loop.failures += 1
            self._count(loop, failing=loop.failures >= FAILING)
            if must_list(problem, loop.failures):
                loop.version = ""
            self._bear(loop, problem)
            delay = pause(problem, loop.failures)
            log = logger.warning if loop.failures in (2, 5) or loop.failures % 20 == 0 else logger.debug
            log("%s: %s", self._part(loop), problem or "it ended at once", extra={"retry_in": round(delay, 1)})
            self._health.beat(self._part(loop), delay + BEAT_SECONDS)
            await asyncio.sleep(delay)

    async def _once(self, loop: _Loop) -> None:
        """Lists if necessary, then watches until the end of the watch."""
        clock = asyncio.get_running_loop().time
        if loop.listed_at == -math.inf:
            await self._list_first(loop)
        elif not loop.version or clock() - loop.listed_at >= self._relist:
            await self._list(loop)
        seconds = min(WATCH_SECONDS, max(1.0, loop.listed_at + self._relist - clock()))
        # The API server ends the watch. One that does not is ended here.
        with_patience = asyncio.timeout(seconds + min(10.0, seconds))
        try:
            changes = self._kube.watch(self.resource, loop.version, loop.namespace, self._selector, seconds)
            async with with_patience, aclosing(changes):
                async for event in changes:
                    loop.failures = 0
                    loop.version = event.object["metadata"]["resourceVersion"]
                    self._heard(loop)
                    self._take(event.type, event.object)
        except TimeoutError:
            if not with_patience.expired():
                raise

    def _heard(self, loop: _Loop) -> None:
        loop.heard_at = asyncio.get_running_loop().time()
        self._count(loop, failing=False)
        self._health.beat(self._part(loop), BEAT_SECONDS)

    def _count(self, loop: _Loop, *, failing: bool) -> None:
        if loop.failing != failing:
            loop.failing = failing
            FAILING_WATCHES.labels(self.resource.kind).set(sum(other.failing for other in self._loops))

    def _bear(self, loop: _Loop, problem: Exception | None) -> None:
        """Handles that a namespace or the definition of a kind is not there, or is denied."""
        missing = self._removable and isinstance(problem, NotFoundError)
        loop.absences = loop.absences + 1 if missing else 0
        # An API server that has just started may not know a definition yet, so once is not enough.
        if loop.absences == 2:
            logger.warning("%s are not served: their definition is missing", self.resource.plural)
            self._replace(loop.namespace, {}, math.inf)
        if loop.absences > 1:
            loop.heard_at = -math.inf
        if loop.absences > 1 or loop.failures >= _TRIES:
            self._no_longer_awaited(loop.namespace)

    async def _list_first(self, loop: _Loop) -> None:
        """Lists one namespace after another: hundreds at once keep the loop from the Lease."""
        async with self._first:
            listing = asyncio.create_task(self._list(loop))
            try:
                await asyncio.wait((listing,), timeout=ALONE_SECONDS)
            except asyncio.CancelledError:
                listing.cancel()
                raise
        await listing

    async def _list(self, loop: _Loop) -> None:
        asked_at = asyncio.get_running_loop().time()
        items, version = await self._kube.list(self.resource, loop.namespace, self._selector, keep=self._keep)
        self._replace(loop.namespace, {key_of(item): item for item in items}, asked_at)
        loop.version, loop.listed_at, loop.absences = version, asked_at, 0
        self._heard(loop)
        self._listed.add(loop.namespace)
        self._no_longer_awaited(loop.namespace)

    def _replace(self, namespace: str | None, fresh: Mapping[Key, Object], asked_at: float) -> None:
        """Makes the copy equal to a list. The list is believed also if its versions are older.

        Only what was written while the list was under way is kept.
        """
        for key in [key for key in self._objects if key not in fresh and namespace in (None, key[0])]:
            if self._stored_at.get(key, -math.inf) < asked_at:
                self._drop(key)
        for key, item in fresh.items():
            old = self._objects.get(key)
            if self._stored_at.get(key, -math.inf) < asked_at or newer(item, old):
                self._update(key, item, handled=key not in self._stored_at and same(item, old))

    def _no_longer_awaited(self, namespace: str | None) -> None:
        self._pending.discard(namespace)
        if not self._pending:
            self.synced.set()

    def _take(self, kind: str, obj: Object) -> None:
        if kind == "BOOKMARK":
            return
        obj = self._keep(obj)
        key = key_of(obj)
        old = self._objects.get(key)
        if kind == "DELETED":
            if old is not None and old["metadata"]["uid"] == obj["metadata"]["uid"]:
                self._drop(key, obj["metadata"]["resourceVersion"])
        elif newer(obj, old):
            self._update(key, obj, handled=self._is_no_news(key, obj, old))

    def _is_no_news(self, key: Key, obj: Object, old: Object | None) -> bool:
        if not self._echoes and key in self._stored_at and same(obj, old):
            return True
        return not self._status and same_but_status(obj, old)

    def _update(self, key: Key, obj: Object, *, handled: bool = False) -> None:
        old = self._objects.get(key)
        if old is not None and old["metadata"]["uid"] != obj["metadata"]["uid"]:
            self._drop(key)  # it was deleted, and this is another one with its name
        self._put(key, obj)
        self._stored_at.pop(key, None)
        self._deleted.pop(obj["metadata"]["uid"], None)
        if not handled:
            self._notify(obj)

    def _put(self, key: Key, obj: Object) -> None:
        old = self._objects.get(key)
        if old is not None and self._group(old) != self._group(obj):
            self._unindex(key, old)
        self._objects[key] = obj
        self._groups.setdefault((key[0], self._group(obj)), set()).add(key)

    def _drop(self, key: Key, version: str = "") -> None:
        old = self._objects.get(key)
        if old is not None:
            self.discard(key, version)
            self._notify(old)

    def _unindex(self, key: Key, obj: Object) -> None:
        group = (key[0], self._group(obj))
        members = self._groups.get(group, set())
        members.discard(key)
        if not members:
            self._groups.pop(group, None)

    def _notify(self, obj: Object) -> None:
        try:
            self._on_change(obj)
        except Exception:  # the changes of other objects are still handled
            logger.exception("%s %s could not be handled", self.resource.kind, "/".join(key_of(obj)))


async def all_synced(informers: Sequence[Informer]) -> None:
    """Returns once every informer has listed its objects, or has failed to.

    Whoever acts on objects of a namespace must ask the informers whether they see it.
    """
    try:
        async with asyncio.timeout(START_SECONDS):
            for informer in informers:
                await informer.synced.wait()
    except TimeoutError:
        missing = [informer.resource.plural for informer in informers if not informer.synced.is_set()]
        logger.warning("not everything could be listed, and services may have to wait: %s", ", ".join(missing))
