"""The operator's view of the cluster: the QwenServices and all objects with our label."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from qwen_operator.api import API_VERSION, KIND
from qwen_operator.api.names import DOWNLOAD_LABEL, child_name, label_value
from qwen_operator.api.objects import Key, Object, key_of
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.informer import SELECTOR, Informer, all_synced, service_label
from qwen_operator.kube.resources import (
    AUTOSCALERS,
    BUDGETS,
    CLAIMS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    INGRESSES,
    JOBS,
    NETWORK_POLICIES,
    OPTIONAL,
    PODS,
    PROMETHEUS_RULES,
    QWEN_SERVICES,
    SCALED_OBJECTS,
    SERVICE_MONITORS,
    SERVICES,
    Resource,
)
from qwen_operator.kube.surroundings import Surroundings
from qwen_operator.process.health import Health

logger = logging.getLogger(__name__)

DISCOVERY_SECONDS: Final = 60.0
_COMPARE_SECONDS: Final = 900.0
"""How often children and pods are listed and compared, also while their watches seem to work."""

_OPTIONAL_SECONDS: Final = 2.0
_BELIEVED_SECONDS: Final = 60.0
"""For so long a report of a service proves that it exists."""

_CHILDREN: Final = (DEPLOYMENTS, SERVICES, CONFIG_MAPS, NETWORK_POLICIES, AUTOSCALERS, INGRESSES, CLAIMS, JOBS)
_OPTIONAL_CHILDREN: Final = (SERVICE_MONITORS, PROMETHEUS_RULES, HTTP_ROUTES, SCALED_OBJECTS)
# Its controller changes the status with each pod, and nothing here reads it.
_RESTLESS: Final = (BUDGETS,)
_FOREIGN: Final = "foreign"


def _is_child(obj: Object) -> bool:
    owners = obj["metadata"].get("ownerReferences") or ()
    return any(owner.get("kind") == KIND and owner.get("apiVersion") == API_VERSION for owner in owners)


def _budget_group(obj: Object) -> str:
    """Whether a budget is a child. There is one of each service, and few others."""
    return "child" if _is_child(obj) else _FOREIGN


class ClusterCache:
    """A cache of the relevant objects, kept up to date by watches.

    `on_child(key)`, `on_pod(pod)` and `on_service(service)` are called when an object changes,
    `on_api()` when an optional API or something in the surroundings has changed. The list of
    QwenServices is compared with the cache at least every `relist` seconds.
    """

    def __init__(
        self,
        kube: KubeClient,
        namespaces: Sequence[str],
        *,
        on_child: Callable[[Key], None],
        on_pod: Callable[[Object], None],
        on_api: Callable[[], None],
        on_service: Callable[[Object], None] = lambda _: None,
        relist: float = math.inf,
        health: Health | None = None,
    ) -> None:
        self._kube = kube
        self._namespaces = namespaces
        self._on_child = on_child
        self._on_api = on_api
        self._on_service = on_service
        self._health = health or Health()
        self.surroundings = Surroundings(kube)
        self._names: dict[Key, str] = {}
        self._reported: dict[Key, float] = {}
        self._optional_tasks: dict[Resource, asyncio.Task[None]] = {}
        self._served: frozenset[Resource] = frozenset()
        self._informers = {resource: self._child_informer(resource) for resource in _CHILDREN}
        # All budgets are watched: if one of the user's selects the pods, ours is removed.
        self._informers[BUDGETS] = self._child_informer(BUDGETS, selector="")
        self.pod_informer = self._informer(PODS, on_change=on_pod)
        self._needed = (*self._informers.values(), self.pod_informer)
        self.service_informer = self._informer(
            QWEN_SERVICES, on_change=self._service_changed, selector="", relist=relist, removable=True
        )

    # The services.

    @property
    def services(self) -> Mapping[Key, Object]:
        """All QwenServices."""
        return self.service_informer.objects

    def service(self, key: Key) -> Object | None:
        """A QwenService, None if it does not exist."""
        return self.service_informer.get(*key)

    def store_service(self, obj: Object) -> None:
        """Stores a QwenService unless a newer state is already known, or it was deleted."""
        self.service_informer.put(obj)
        key = key_of(obj)
        if self.service(key) is not None:
            self._name(key)

    def forget_service(self, key: Key) -> None:
        """Removes a QwenService that was deleted."""
        known = self.service(key)
        if known is not None:
            self.service_informer.discard(key)
            self._forget(key)

    def take_report(self, key: Key) -> bool:
        """Whether the API server has reported a service lately. True only once for each report."""
        return time.monotonic() - self._reported.pop(key, -math.inf) < _BELIEVED_SECONDS

    def _service_changed(self, obj: Object) -> None:
        key = key_of(obj)
        if self.service(key) is None:
            self._forget(key)
        else:
            self._reported[key] = time.monotonic()
            self._name(key)
        self._on_service(obj)

    def _forget(self, key: Key) -> None:
        self._names.pop((key[0], label_value(key[1])), None)
        self._reported.pop(key, None)

    def _name(self, key: Key) -> None:
        self._names[(key[0], label_value(key[1]))] = key[1]

    def key_by_label(self, obj: Object) -> Key | None:
        """The service that an object belongs to by its label."""
        namespace = obj["metadata"].get("namespace", "")
        label = service_label(obj) or _download_label(obj)
        name = self._names.get((namespace, label))
        return None if name is None else (namespace, name)

    def sees(self, namespace: str) -> bool:
        """Whether all objects of a namespace have been listed that decisions depend on.

        Where they are denied, an empty view must not be taken for an empty namespace.
        """
        return all(informer.sees(namespace) for informer in self._needed)

    def sees_any(self) -> bool:
        """The same for at least one of the namespaces. Otherwise nothing can be done."""
        return any(self.sees(namespace) for namespace in self._namespaces or ("",))

    # The objects that belong to them.

    def pods(self, key: Key) -> Sequence[Object]:
        """The pods of a service."""
        return self.pod_informer.in_group(key[0], label_value(key[1]))

    def download_pods(self, key: Key) -> Sequence[Object]:
        """The pods that download the model of a service."""
        without_service = self.pod_informer.in_group(key[0], "")
        return [pod for pod in without_service if _download_label(pod) == label_value(key[1])]

    def jobs(self, key: Key) -> Sequence[Object]:
        """The Jobs of a service."""
        return self._informers[JOBS].in_group(key[0], label_value(key[1]))

    def deployment(self, key: Key) -> Object | None:
        """The Deployment of a service."""
        return self._informers[DEPLOYMENTS].get(key[0], child_name(key[1]))

    def child(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """An object with our label, None if there is none or its kind is not watched."""
        informer = self._informers.get(resource)
        return None if informer is None else informer.get(namespace, name)

    def knows(self, resource: Resource, namespace: str) -> bool:
        """Whether all objects of a kind with our label are known in a namespace."""
        informer = self._informers.get(resource)
        return informer is not None and informer.sees(namespace)

    def store_child(self, resource: Resource, obj: Object) -> None:
        """Stores the object that a write returned."""
        if resource in self._informers:
            self._informers[resource].put(obj)

    def budgets(self, namespace: str) -> Sequence[Object]:
        """The PodDisruptionBudgets of a namespace that may concern the pods of any service.

        One that a QwenService owns selects only the pods of that service.
        """
        return self._informers[BUDGETS].in_group(namespace, _FOREIGN)

    def serves(self, resource: Resource) -> bool:
        """Whether an optional API was installed at the last discovery."""
        return resource in self._served

    # The tasks.

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Starts the watches and returns once all objects of required APIs are listed.

        An optional API that is installed but fails, for instance because its conversion webhook is
        down, delays this by two seconds.
        """
        for informer in self._needed:
            tasks.create_task(informer.run(), name=f"watch {informer.resource.plural}")
        await self.discover()
        await all_synced(self._needed)
        optional = [self._informers[resource] for resource in self._optional_tasks]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OPTIONAL_SECONDS):
                await all_synced(optional)
        # Pods and children before services, so that the first reconciliation sees all of them.
        tasks.create_task(self.service_informer.run(), name="watch qwenservices")

    async def stop(self) -> None:
        """Stops the watches of optional APIs. The others end with their task group."""
        for task in self._optional_tasks.values():
            task.cancel()
        await asyncio.gather(*self._optional_tasks.values(), return_exceptions=True)

    async def keep_discovering(self) -> None:
        """Discovers once a minute what has changed around the services."""
        while True:
            await asyncio.sleep(DISCOVERY_SECONDS)
            await self.discover()

    async def discover(self) -> None:
        """Finds out which optional APIs are installed, and watches our children of these kinds.

        Then it reads the surroundings.
        """
        served: set[Resource] = set()
        for api_version in dict.fromkeys(resource.api_version for resource in OPTIONAL):
            group = [resource for resource in OPTIONAL if resource.api_version == api_version]
            try:
                plurals = await self._kube.served(api_version)
                served.update(resource for resource in group if resource.plural in plurals)
            except KubeError as error:
                logger.warning("discovery of %s failed: %s", api_version, error)
                served.update(self._served.intersection(group))
        changed = frozenset(served) != self._served
        self._served = frozenset(served)
        for resource in _OPTIONAL_CHILDREN:
            if resource in served and resource not in self._informers:
                informer = self._informers[resource] = self._child_informer(resource)
                self._optional_tasks[resource] = asyncio.create_task(informer.run(), name=f"watch {resource.plural}")
            elif resource not in served and resource in self._informers:
                del self._informers[resource]
                self._optional_tasks.pop(resource).cancel()
        if changed:
            logger.info("installed optional APIs: %s", ", ".join(sorted(item.plural for item in served)) or "none")
        if await self.surroundings.look() or changed:
            self._on_api()

    def _child_informer(self, resource: Resource, selector: str = SELECTOR) -> Informer:
        return self._informer(resource, selector=selector, echoes=False, status=resource not in _RESTLESS)

    def _informer(
        self,
        resource: Resource,
        *,
        on_change: Callable[[Object], None] | None = None,
        selector: str = SELECTOR,
        relist: float = _COMPARE_SECONDS,
        removable: bool = False,
        echoes: bool = True,
        status: bool = True,
    ) -> Informer:
        return Informer(
            self._kube,
            resource,
            self._namespaces,
            on_change or self._changed,
            selector,
            relist=relist,
            removable=removable,
            echoes=echoes,
            status=status,
            group=_budget_group if resource == BUDGETS else service_label,
            health=self._health,
        )

    def _changed(self, obj: Object) -> None:
        key = self.key_by_label(obj)
        if key is not None:
            self._on_child(key)
        elif obj["kind"] == BUDGETS.kind:
            for other in [other for other in self.services if other[0] == obj["metadata"]["namespace"]]:
                self._on_child(other)


def _download_label(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get(DOWNLOAD_LABEL, ""))
