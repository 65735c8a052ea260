"""Makes the children of a QwenService what was planned: applies, removes and adopts them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from qwen_operator.api import QwenService
from qwen_operator.api.names import CONFIG_HASH_ANNOTATION
from qwen_operator.api.objects import Key, Object
from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    KubeError,
    NamespaceEndingError,
    NotFoundError,
    worse,
)
from qwen_operator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, Resource, resource_for, resource_of
from qwen_operator.planning.builders.common import stable_hash
from qwen_operator.planning.builders.deployment import keep_template
from qwen_operator.planning.builders.ownership import is_applied, is_ours, stamped
from qwen_operator.planning.builders.source import image_volumes_advice, lacks_image_volumes
from qwen_operator.planning.plan import Reference
from qwen_operator.process.operator_metrics import WRITES
from qwen_operator.status.conditions import ApplyError

logger = logging.getLogger(__name__)

TAKEN_SECONDS: Final = 15.0
"""How often a name is looked at again that an object of somebody else has."""

# What the pods mount, and what a route sends requests to. Without it the child would do harm.
_NEEDS: Final = {
    "Deployment": ("ConfigMap", "PersistentVolumeClaim"),
    "Job": ("PersistentVolumeClaim",),
    "HTTPRoute": ("Service",),
    "Ingress": ("Service",),
}


class Children:
    """The children of all services. At most one call at a time for each service.

    `again(key, seconds)` is called for a service that must be looked at later.
    """

    def __init__(self, kube: KubeClient, cluster: ClusterCache, again: Callable[[Key, float], None]) -> None:
        self._kube = kube
        self._cluster = cluster
        self._again = again
        self._taken: dict[Key, set[tuple[Resource, str]]] = {}

    def live(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """An object with our label."""
        return self._cluster.child(resource, namespace, name)

    def own(self, resource: Resource, service: QwenService, name: str) -> Object | None:
        """The same, None if it is somebody else's."""
        found = self.live(resource, service.namespace, name)
        return found if found is not None and is_ours(found, service) else None

    async def apply(
        self, key: Key, service: QwenService, planned: Sequence[Object]
    ) -> tuple[list[ApplyError], KubeError | None]:
        """Applies the children that differ. Returns the errors and the first retryable one.

        An error holds back only the children that need the refused one.
        """
        errors: list[ApplyError] = []
        retry: KubeError | None = None
        for child in planned:
            kind = child["kind"]
            if self._lacks(child, errors):
                continue
            try:
                errors += await self._apply(key, service, child)
            except NamespaceEndingError:
                continue  # the QwenService will be deleted, too
            except KubeError as error:
                errors.append(ApplyError("ApplyFailed", f"{kind} {child['metadata']['name']}: {error.message}", kind))
                retry = worse(retry, None if isinstance(error, InvalidError) else error)
        return errors, retry

    async def remove(self, service: QwenService, references: Sequence[Reference]) -> KubeError | None:
        """Deletes what the spec no longer asks for.

        Returns the last error: the status is written anyway.
        """
        failure = None
        for reference in references:
            resource = resource_of(reference.api_version, reference.kind)
            found = self.own(resource, service, reference.name)
            if found is None:
                continue
            try:
                await self._kube.delete(resource, reference.name, service.namespace, uid=found["metadata"]["uid"])
            except KubeError as error:
                failure = error
                continue
            WRITES.labels(reference.kind).inc()
            logger.info("removed %s %s/%s", reference.kind, service.namespace, reference.name)
        return failure

    def forget(self, key: Key) -> None:
        """Drops what is known about the children of a service."""
        self._taken.pop(key, None)

    def _lacks(self, child: Object, errors: Sequence[ApplyError]) -> bool:
        """Whether a child that does not exist yet needs one that was refused."""
        needs = _NEEDS.get(child["kind"], ())
        metadata = child["metadata"]
        return any(error.kind in needs for error in errors) and (
            self.live(resource_for(child), metadata["namespace"], metadata["name"]) is None
        )

    async def _apply(self, key: Key, service: QwenService, planned: Object) -> list[ApplyError]:
        """Applies one child if it differs."""
        child = stamped(planned)
        resource, name = resource_for(child), child["metadata"]["name"]
        live = self.live(resource, key[0], name)
        try:
            if live is None:
                live = await self._create(key, child)
            if live is not None and not is_ours(live, service):
                return [self._name_taken(key, child)]
            if live is not None and not is_applied(child, live):
                await self._write(key, child)
        except InvalidError as error:
            if resource is not DEPLOYMENTS:
                raise
            await self._keep_template(key, planned, live)
            if lacks_image_volumes(planned, error.message):
                return [ApplyError("ImageVolumeUnsupported", image_volumes_advice(error.message), child["kind"])]
            return [ApplyError("InvalidPodTemplate", error.message, child["kind"])]
        except ForbiddenError as error:
            if resource is DEPLOYMENTS and not isinstance(error, NamespaceEndingError):
                await self._keep_template(key, planned, live)
            raise
        return []

    async def _create(self, key: Key, child: Object) -> Object | None:
        """Creates a child that the cache does not have, and returns None.

        Returns the object that has its name if there is one: the cache has only objects with our
        label. A name that was taken is read first, so that no write is refused again and again.
        """
        resource, name = resource_for(child), child["metadata"]["name"]
        if not self._cluster.knows(resource, key[0]) or (resource, name) in self._taken.get(key, ()):
            found = await self._look(resource, key, name)
            if found is not None:
                return found
        self._taken.get(key, set()).discard((resource, name))
        try:
            await self._write(key, child, new=True)
        except ConflictError:
            found = await self._look(resource, key, name)
            if found is None:  # it was deleted in between
                await self._write(key, child)
            return found
        return None

    async def _look(self, resource: Resource, key: Key, name: str) -> Object | None:
        try:
            return await self._kube.get(resource, name, key[0])
        except NotFoundError:
            return None

    def _name_taken(self, key: Key, child: Object) -> ApplyError:
        kind, name = child["kind"], child["metadata"]["name"]
        self._taken.setdefault(key, set()).add((resource_for(child), name))
        self._again(key, TAKEN_SECONDS)
        message = f"{kind} {name} exists and belongs to something else. Rename one of the two."
        return ApplyError("NameTaken", message, kind)

    async def _keep_template(self, key: Key, planned: Object, live: Object | None) -> None:
        """Applies the rest of a Deployment whose pod template was refused, such as its replicas."""
        if live is None:
            return
        kept = stamped(keep_template(planned, live))
        if not is_applied(kept, live):
            try:
                await self._write(key, kept)
            except (InvalidError, ForbiddenError) as error:
                logger.debug("the Deployment is refused with its old template, too: %s", error)

    async def _write(self, key: Key, child: Object, *, new: bool = False) -> None:
        applied = await self._kube.apply(child, new=new)
        WRITES.labels(child["kind"]).inc()
        resource = resource_for(child)
        self._cluster.store_child(resource, applied)
        if resource is CONFIG_MAPS:
            await self._nudge(key, stable_hash(child["data"]))

    async def _nudge(self, key: Key, digest: str) -> None:
        """Changes an annotation of the pods: this makes the kubelet refresh their ConfigMap."""

        for pod in self._cluster.pods(key):
            metadata = pod["metadata"]
            body = {"metadata": {"uid": metadata["uid"], "annotations": {CONFIG_HASH_ANNOTATION: digest}}}
            if (metadata.get("annotations") or {}).get(CONFIG_HASH_ANNOTATION) == digest:
                continue
            try:
                self._cluster.pod_informer.store(await self._kube.patch(PODS, metadata["name"], key[0], body))
            except (NotFoundError, ConflictError):
                continue
            WRITES.labels("nudge").inc()
