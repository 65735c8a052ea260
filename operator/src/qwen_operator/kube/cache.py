"""The operator's view of the cluster: QwenServices (from kopf) and all objects with our label."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from qwen_operator.api.names import child_name, label_value
from qwen_operator.api.objects import Key, Object, key_of
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.informer import Informer, all_synced, newer, service_label
from qwen_operator.kube.resources import (
    AUTOSCALERS,
    BUDGETS,
    CLAIMS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    NETWORK_POLICIES,
    OPTIONAL,
    PODS,
    PROMETHEUS_RULES,
    SERVICE_MONITORS,
    SERVICES,
    Resource,
)

logger = logging.getLogger(__name__)

DISCOVERY_SECONDS: Final = 60.0
_CHILDREN: Final = (DEPLOYMENTS, SERVICES, CONFIG_MAPS, NETWORK_POLICIES, AUTOSCALERS, CLAIMS)
_OPTIONAL_CHILDREN: Final = (SERVICE_MONITORS, PROMETHEUS_RULES, HTTP_ROUTES)


class ClusterCache:
    """A cache of the relevant objects, kept up to date by watches.

    `on_child(key)` and `on_pod(pod)` are called when an object changes, `on_api()` when an optional
    API was installed or removed.
    """

    def __init__(
        self,
        kube: KubeClient,
        namespaces: Sequence[str],
        *,
        on_child: Callable[[Key], None],
        on_pod: Callable[[Object], None],
        on_api: Callable[[], None],
    ) -> None:
        self._kube = kube
        self._namespaces = namespaces
        self._on_child = on_child
        self._on_api = on_api
        self._services: dict[Key, Object] = {}
        self._names: dict[Key, str] = {}
        self._optional_tasks: dict[Resource, asyncio.Task[None]] = {}
        self._served: frozenset[Resource] = frozenset()
        self._informers = {resource: self._informer(resource) for resource in _CHILDREN}
        # All budgets are watched: if one of the user's selects the pods, ours is removed.
        self._informers[BUDGETS] = Informer(kube, BUDGETS, namespaces, self._changed, selector="")
        self.pod_informer = Informer(kube, PODS, namespaces, on_pod)

    # The services.

    @property
    def services(self) -> Mapping[Key, Object]:
        """All QwenServices."""
        return self._services

    def service(self, key: Key) -> Object | None:
        """A QwenService, None if it does not exist."""
        return self._services.get(key)

    def store_service(self, obj: Object) -> None:
        """Stores a QwenService unless a newer state is already known."""
        key = key_of(obj)
        if newer(obj, self._services.get(key)):
            self._services[key] = obj
            self._names[(key[0], label_value(key[1]))] = key[1]

    def forget_service(self, key: Key) -> None:
        """Removes a QwenService that was deleted."""
        self._services.pop(key, None)
        self._names.pop((key[0], label_value(key[1])), None)

    def key_by_label(self, obj: Object) -> Key | None:
        """The service that an object belongs to by its label."""
        namespace, label = obj["metadata"].get("namespace", ""), service_label(obj)
        name = self._names.get((namespace, label))
        return None if name is None else (namespace, name)

    # The objects that belong to them.

    def pods(self, key: Key) -> Sequence[Object]:
        """The pods of a service."""
        return self.pod_informer.of_service(key[0], label_value(key[1]))

    def deployment(self, key: Key) -> Object | None:
        """The Deployment of a service."""
        return self._informers[DEPLOYMENTS].get(key[0], child_name(key[1]))

    def child(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """An object with our label, None if there is none or its kind is not watched."""
        informer = self._informers.get(resource)
        return None if informer is None else informer.get(namespace, name)

    def store_child(self, resource: Resource, obj: Object) -> None:
        """Stores the object that a write returned."""
        if resource in self._informers:
            self._informers[resource].store(obj)

    def budgets(self, namespace: str) -> Sequence[Object]:
        """All PodDisruptionBudgets of a namespace."""
        return self._informers[BUDGETS].in_namespace(namespace)

    def serves(self, resource: Resource) -> bool:
        """Whether an optional API was installed at the last discovery."""
        return resource in self._served

    # The tasks.

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Starts the watches and returns once all objects of required APIs are listed.

        An optional API that is installed but fails, for instance because its conversion webhook is
        down, delays nothing.
        """
        needed = (*self._informers.values(), self.pod_informer)
        for informer in needed:
            tasks.create_task(informer.run(), name=f"watch {informer.resource.plural}")
        await self.discover()
        await all_synced(needed)

    async def stop(self) -> None:
        """Stops the watches of optional APIs. The others end with their task group."""
        for task in self._optional_tasks.values():
            task.cancel()
        await asyncio.gather(*self._optional_tasks.values(), return_exceptions=True)

    async def keep_discovering(self) -> None:
        """Discovers once a minute which optional APIs are installed."""
        while True:
            await asyncio.sleep(DISCOVERY_SECONDS)
            await self.discover()

    async def discover(self) -> None:
        """Finds out which optional APIs are installed, and watches our children of these kinds."""
        served = set()
        for resource in OPTIONAL:
            try:
                if await self._kube.serves(resource):
                    served.add(resource)
            except KubeError as error:
                logger.warning("discovery of %s failed: %s", resource.plural, error)
                if resource in self._served:
                    served.add(resource)
        changed = frozenset(served) != self._served
        self._served = frozenset(served)
        for resource in _OPTIONAL_CHILDREN:
            if resource in served and resource not in self._informers:
                informer = self._informers[resource] = self._informer(resource)
                self._optional_tasks[resource] = asyncio.create_task(informer.run(), name=f"watch {resource.plural}")
            elif resource not in served and resource in self._informers:
                del self._informers[resource]
                self._optional_tasks.pop(resource).cancel()
        if changed:
            logger.info("installed optional APIs: %s", ", ".join(sorted(item.plural for item in served)) or "none")
            self._on_api()

    def _informer(self, resource: Resource) -> Informer:
        return Informer(self._kube, resource, self._namespaces, self._changed)

    def _changed(self, obj: Object) -> None:
        key = self.key_by_label(obj)
        if key is not None:
            self._on_child(key)
        elif obj["kind"] == BUDGETS.kind:
            for other in [other for other in self._services if other[0] == obj["metadata"]["namespace"]]:
                self._on_child(other)
