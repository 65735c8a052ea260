"""Makes the children of a QwenService what was planned: applies, removes and adopts them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from qwen_operator.api import QwenService, format_time
from qwen_operator.api.names import CONFIG_HASH_ANNOTATION
from qwen_operator.api.objects import Key, Object, Owner
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
from qwen_operator.kube.pacing import Pacing, Place
from qwen_operator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, PODS, Resource, resource_for, resource_of
from qwen_operator.planning.builders.common import stable_hash
from qwen_operator.planning.builders.deployment import keep_template
from qwen_operator.planning.builders.drift import describe, drift_of, managers
from qwen_operator.planning.builders.ownership import applied_hash, is_applied, is_left_over, is_ours, stamped
from qwen_operator.planning.builders.source import (
    IMAGES_DROPPED,
    image_volumes,
    image_volumes_advice,
    lacks_image_volumes,
)
from qwen_operator.planning.plan import Reference
from qwen_operator.process.operator_metrics import WRITES
from qwen_operator.status.conditions import ApplyError
from qwen_operator.status.diagnosis import is_active

logger = logging.getLogger(__name__)

TAKEN_SECONDS: Final = 15.0
"""How often a name is looked at again that an object of somebody else has."""
LEFT_OVER_SECONDS: Final = 3.0
"""The same for an object that the garbage collector is about to delete."""
OF_SOMEBODY_ELSE: Final = "belongs to something else. Rename one of the two."
OF_THE_DELETED: Final = "belongs to a deleted QwenService of this name. A new one is made when it is gone."

# What the pods mount, and what a route sends requests to. Without it the child would do harm.
_NEEDS: Final = {
    "Deployment": ("ConfigMap", "PersistentVolumeClaim"),
    "Job": ("PersistentVolumeClaim",),
    "HTTPRoute": ("Service",),
    "Ingress": ("Service",),
}

Errors = Sequence[ApplyError]
Report = Callable[[QwenService, str, str], None]


class Children:
    """The children of all services. At most one call at a time for each service.

    `again(key, seconds)` is called for a service that must be looked at later, and
    `report(service, reason, message)` if somebody else changed a child. A child that was refused,
    or that somebody keeps changing, is written again with a back-off of its own.
    """

    def __init__(
        self,
        kube: KubeClient,
        cluster: ClusterCache,
        again: Callable[[Key, float], None],
        *,
        report: Report = lambda *_: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._cluster = cluster
        self._again = again
        self._report = report
        self._now = now
        self._clock = clock
        self._paces: dict[Key, Pacing[Errors]] = {}

    def live(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """An object with our label."""
        return self._cluster.child(resource, namespace, name)

    def own(self, resource: Resource, service: Owner, name: str) -> Object | None:
        """The same, None if it is somebody else's."""
        found = self.live(resource, service.namespace, name)
        return found if found is not None and is_ours(found, service) else None

    async def apply(
        self, key: Key, service: QwenService, planned: Sequence[Object]
    ) -> tuple[list[ApplyError], KubeError | None]:
        """Applies the children that differ.

        Returns the errors, also of children that wait for their next try, and the first write that
        has failed now. An error holds back only the children that need the refused one.
        """
        errors: list[ApplyError] = []
        failure: KubeError | None = None
        # A Job that has ended is deleted by the cluster. If it is made again, nobody has meddled.
        jobs = {child["metadata"]["name"] for child in planned if child["kind"] == JOBS.kind}
        self._pacing(key).forget_written(JOBS.kind, jobs)
        for child in planned:
            if self._lacks(child, errors):
                continue
            try:
                errors += await self._apply(key, service, child)
            except NamespaceEndingError:
                continue  # the QwenService will be deleted, too
            except KubeError as error:
                place = (child["kind"], child["metadata"]["name"])
                refused = ApplyError("ApplyFailed", f"{place[0]} {place[1]}: {error.message}", place[0])
                errors += self._wait(key, place, applied_hash(stamped(child)), refused)
                failure = worse(failure, None if isinstance(error, InvalidError) else error)
        return errors, failure

    async def remove(
        self, key: Key, service: QwenService, references: Sequence[Reference]
    ) -> tuple[list[ApplyError], KubeError | None]:
        """Deletes what the spec no longer asks for. Returns the same as `apply`."""
        errors: list[ApplyError] = []
        failure: KubeError | None = None
        pacing = self._pacing(key)
        for reference in references:
            resource = resource_of(reference.api_version, reference.kind)
            place = (reference.kind, reference.name)
            found = self.own(resource, service, reference.name)
            if found is None:
                pacing.forget(place)
            elif left := pacing.left(place, ""):
                self._again(key, left)
                errors += pacing.note(place)
            else:
                try:
                    await self._kube.delete(resource, reference.name, service.namespace, uid=found["metadata"]["uid"])
                except KubeError as error:
                    message = f"{reference.kind} {reference.name} cannot be removed: {error.message}"
                    errors += self._wait(key, place, "", ApplyError("ApplyFailed", message, reference.kind))
                    failure = worse(failure, error)
                    continue
                WRITES.labels(reference.kind).inc()
                logger.info("removed %s %s/%s", reference.kind, service.namespace, reference.name)
        return errors, failure

    def forget(self, key: Key) -> None:
        """Drops what is remembered of the children of a service."""
        self._paces.pop(key, None)

    def _pacing(self, key: Key) -> Pacing[Errors]:
        return self._paces.setdefault(key, Pacing((), self._clock))

    def _wait(self, key: Key, place: Place, wish: str, error: ApplyError, seconds: float | None = None) -> Errors:
        """Reports an error of a child until the next try, which is made with back-off."""
        errors = (error,)
        self._again(key, self._pacing(key).failed(place, wish, errors, seconds))
        return errors

    def _lacks(self, child: Object, errors: Errors) -> bool:
        """Whether a child that does not exist yet needs one that was refused."""
        needs = _NEEDS.get(child["kind"], ())
        metadata = child["metadata"]
        refused = any(error.kind in needs and error.reason != "Contested" for error in errors)
        return refused and self.live(resource_for(child), metadata["namespace"], metadata["name"]) is None

    async def _apply(self, key: Key, service: QwenService, planned: Object) -> Errors:
        """Applies one child if it differs and may be written now."""
        child, pacing = stamped(planned), self._pacing(key)
        resource, name, wish = resource_for(child), child["metadata"]["name"], applied_hash(child)
        place = (child["kind"], name)
        live = self.live(resource, key[0], name)
        if _is_done(child, live, service):
            return self._at_rest(key, place)
        if left := pacing.left(place, wish):
            self._again(key, left)
            return pacing.note(place)
        try:
            return await self._change(key, service, child, live)
        except InvalidError as error:
            if resource is not DEPLOYMENTS:
                raise
            await self._keep_template(key, planned, live)
            refused = ApplyError("InvalidPodTemplate", error.message, place[0])
            if lacks_image_volumes(planned, error.message):
                refused = ApplyError("ImageVolumeUnsupported", image_volumes_advice(error.message), place[0])
            return self._wait(key, place, wish, refused)
        except ForbiddenError as error:
            if resource is DEPLOYMENTS and not isinstance(error, NamespaceEndingError):
                await self._keep_template(key, planned, live)
            raise

    async def _change(self, key: Key, service: QwenService, child: Object, live: Object | None) -> Errors:
        """Writes a child that differs, unless its name belongs to somebody else."""
        pacing, wish = self._pacing(key), applied_hash(child)
        place = kind, name = child["kind"], child["metadata"]["name"]
        if live is None:
            live = await self._create(key, child, pacing.note(place))
        if _is_done(child, live, service):
            return self._at_rest(key, place)
        if live is not None and not is_ours(live, service):
            left_over = is_left_over(live, service)
            what = OF_THE_DELETED if left_over else OF_SOMEBODY_ELSE
            error = ApplyError("NameTaken", f"{kind} {name} exists and {what}", kind)
            return self._wait(key, place, wish, error, LEFT_OVER_SECONDS if left_over else TAKEN_SECONDS)
        if live is not None:
            await self._write(key, child)
        if pacing.is_written(place, wish) or (live is not None and applied_hash(live) == wish):
            return self._repaired(key, service, child, live)
        pacing.wrote(place, wish)
        return ()

    async def _create(self, key: Key, child: Object, before: Errors) -> Object | None:
        """Creates a child that the cache does not have, and returns None.

        Returns the object that has its name if there is one: the cache has only objects with our
        label. A name that was taken `before` is read first, so that no write is refused again and
        again.
        """
        resource, name = resource_for(child), child["metadata"]["name"]
        if not self._cluster.knows(resource, key[0]) or any(error.reason == "NameTaken" for error in before):
            found = await self._look(resource, key, name)
            if found is not None:
                return found
        try:
            await self._write(key, child, new=True)
        except ConflictError:
            found = await self._look(resource, key, name)
            if found is None:  # it was deleted in between
                await self._write(key, child)
            return found
        return None

    def _at_rest(self, key: Key, place: Place) -> Errors:
        """What is reported of a child that is as it should be: for a while, that it was not."""
        pacing = self._pacing(key)
        if not (left := pacing.fight_left(place)):
            return ()
        self._again(key, left)
        return pacing.note(place)

    def _repaired(self, key: Key, service: QwenService, child: Object, live: Object | None) -> Errors:
        """Reports that somebody else had changed a child, which was set back.

        Whoever changes it again and again is answered less and less often.
        """
        pacing, place = self._pacing(key), (child["kind"], child["metadata"]["name"])
        drift = [] if live is None else drift_of(child, live)
        what = "deleted and was created again" if live is None else f"changed and was set back: {describe(drift)}"
        self._report(service, "DriftRepaired", f"{place[0]} {place[1]} was {what}.")
        repairs, pause = pacing.repaired(place, applied_hash(child))
        if not pause:
            return ()
        until = format_time(self._now() + timedelta(seconds=pause))
        who = f" ({found})" if (found := managers(drift)) else ""
        message = (
            f"{place[0]} {place[1]} was {what}. This was repair {repairs} in a row. The next one is not made before "
            f"{until}. Find out who changes it{who} and stop that, or change the QwenService."
        )
        errors = (ApplyError("Contested", message, place[0]),)
        pacing.fight(place, errors)
        self._again(key, pause)
        return errors

    async def _look(self, resource: Resource, key: Key, name: str) -> Object | None:
        try:
            return await self._kube.get(resource, name, key[0])
        except NotFoundError:
            return None

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
        if child["kind"] == "Deployment":
            await self._try_images(child, new=new)
        applied = await self._kube.apply(child, new=new)
        WRITES.labels(child["kind"]).inc()
        resource = resource_for(child)
        self._cluster.store_child(resource, applied)
        if resource is CONFIG_MAPS:
            await self._nudge(key, stable_hash(child["data"]))

    async def _try_images(self, deployment: Object, *, new: bool) -> None:
        """Raises InvalidError if the API server would drop volumes that are images.

        The pods would start without their model, and the Deployment would never be as applied.
        """
        wanted = image_volumes(deployment)
        if wanted and wanted - image_volumes(await self._kube.apply(deployment, new=new, dry_run=True)):
            raise InvalidError(422, IMAGES_DROPPED)

    async def _nudge(self, key: Key, digest: str) -> None:
        """Changes an annotation of the pods: this makes the kubelet refresh their ConfigMap."""

        for pod in self._cluster.pods(key):
            metadata = pod["metadata"]
            body = {"metadata": {"uid": metadata["uid"], "annotations": {CONFIG_HASH_ANNOTATION: digest}}}
            if not is_active(pod) or (metadata.get("annotations") or {}).get(CONFIG_HASH_ANNOTATION) == digest:
                continue
            try:
                self._cluster.pod_informer.store(await self._kube.patch(PODS, metadata["name"], key[0], body))
            except (NotFoundError, ConflictError):
                continue
            WRITES.labels("nudge").inc()


def _is_done(child: Object, live: Object | None, service: QwenService) -> bool:
    return live is not None and is_ours(live, service) and is_applied(child, live)
