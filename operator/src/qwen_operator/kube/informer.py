"""Watches with a label selector, which keep a copy of the objects that they see.

kopf's own watches would not do: they do not report objects that were deleted while no watch was
open, and keep no copies. (Since kopf 1.45 they can have selectors, by
`settings.watching.label_selectors`.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from qwen_operator.api.names import SERVICE_LABEL
from qwen_operator.api.objects import Key, Object, key_of
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ForbiddenError, GoneError, KubeError
from qwen_operator.kube.resources import Resource

logger = logging.getLogger(__name__)

OnChange = Callable[[Object], None]

SELECTOR: Final = "app.kubernetes.io/managed-by=qwen-operator"
_BACKOFF: Final = (0.2, 1.0, 2.0, 5.0, 10.0)
_FORBIDDEN_SECONDS: Final = 60.0


def service_label(obj: Object) -> str:
    """The label with the service that an object belongs to; empty if it has none."""
    return str((obj["metadata"].get("labels") or {}).get(SERVICE_LABEL, ""))


def newer(obj: Object, old: Object | None) -> bool:
    """Whether a state of an object is at least as new as another one."""
    if old is None or old["metadata"]["uid"] != obj["metadata"]["uid"]:
        return True
    versions = (obj["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"])
    # Resource versions of one resource are growing numbers. If they are not, the last state wins.
    return not all(version.isdigit() for version in versions) or int(versions[0]) >= int(versions[1])


class Informer:
    """The objects of one kind with the operator's label, kept up to date by a list and a watch.

    `on_change` is called with each object that was added, changed or deleted (then with its last
    known state). Objects are shared: do not modify them.
    """

    def __init__(
        self,
        kube: KubeClient,
        resource: Resource,
        namespaces: Sequence[str],
        on_change: OnChange,
        selector: str = SELECTOR,
    ) -> None:
        self.resource = resource
        self._kube = kube
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._on_change = on_change
        self._selector = selector or None
        self._objects: dict[Key, Object] = {}
        self._by_service: dict[Key, set[Key]] = {}
        self._pending = set(self._namespaces)
        self.synced = asyncio.Event()

    def get(self, namespace: str, name: str) -> Object | None:
        """One object, None if it does not exist."""
        return self._objects.get((namespace, name))

    def of_service(self, namespace: str, label: str) -> list[Object]:
        """The objects that belong to a service, by name."""
        return [self._objects[key] for key in sorted(self._by_service.get((namespace, label), ()))]

    def in_namespace(self, namespace: str) -> list[Object]:
        """All objects of a namespace, by name."""
        return [self._objects[key] for key in sorted(self._objects) if key[0] == namespace]

    def store(self, obj: Object) -> None:
        """Stores a newer state that a write returned, so that nobody acts on the old one until the
        watch delivers it.
        """
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None and old["metadata"]["uid"] == obj["metadata"]["uid"] and newer(obj, old):
            self._put(key, obj)

    async def run(self) -> None:
        """Lists and watches until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for namespace in self._namespaces:
                tasks.create_task(self._follow(namespace))

    async def _follow(self, namespace: str | None) -> None:
        failures = 0
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list(namespace)
                async for event in self._kube.watch(self.resource, version, namespace, self._selector):
                    failures = 0
                    version = event.object["metadata"]["resourceVersion"]
                    self._take(event.type, event.object)
                failures = 0
            except GoneError:
                version = ""
            except ForbiddenError as error:
                version = ""
                logger.warning("no permission to watch %s: %s", self.resource.plural, error)
                # Without permission there is nothing to wait for.
                self._listed(namespace)
                await asyncio.sleep(_FORBIDDEN_SECONDS)
            except KubeError as error:
                # After a lost connection the watch continues. Any other error needs a new list.
                version = version if error.status == 0 else ""
                delay = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                failures += 1
                log = logger.debug if failures == 1 else logger.warning
                log("watching %s failed: %s", self.resource.plural, error, extra={"retry_in": delay})

                await asyncio.sleep(delay)

    async def _list(self, namespace: str | None) -> str:
        items, version = await self._kube.list(self.resource, namespace, self._selector)
        fresh = {key_of(item): item for item in items}
        gone = [key for key in self._objects if key not in fresh and namespace in (None, key[0])]
        for key in gone:
            self._drop(key)
        for key, item in fresh.items():
            old = self._objects.get(key)
            self._put(key, item)
            if old is None or old["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                self._on_change(item)
        self._listed(namespace)
        return version

    def _listed(self, namespace: str | None) -> None:
        self._pending.discard(namespace)
        if not self._pending:
            self.synced.set()

    def _take(self, kind: str, obj: Object) -> None:
        if kind == "BOOKMARK":
            return
        key = key_of(obj)
        if kind == "DELETED":
            self._drop(key)
            return
        if newer(obj, self._objects.get(key)):
            self._put(key, obj)
            self._on_change(obj)

    def _put(self, key: Key, obj: Object) -> None:
        old = self._objects.get(key)
        if old is not None and service_label(old) != service_label(obj):
            self._unindex(key, old)
        self._objects[key] = obj
        self._by_service.setdefault((key[0], service_label(obj)), set()).add(key)

    def _drop(self, key: Key) -> None:
        old = self._objects.pop(key, None)
        if old is not None:
            self._unindex(key, old)
            self._on_change(old)

    def _unindex(self, key: Key, obj: Object) -> None:
        group = (key[0], service_label(obj))
        members = self._by_service.get(group, set())
        members.discard(key)
        if not members:
            self._by_service.pop(group, None)


async def all_synced(informers: Iterable[Informer]) -> None:
    """Returns once every informer has listed its objects."""
    for informer in informers:
        await informer.synced.wait()
