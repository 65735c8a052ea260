"""Reconciles one QwenService: observe, plan, apply, remove, write the status. Idempotent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from qwen_operator import __version__
from qwen_operator.api import InvalidSpecError, QwenService, ServiceStatus
from qwen_operator.api.names import CONFIG_HASH_ANNOTATION, child_labels
from qwen_operator.api.objects import Key, Object, is_owned_by
from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ConflictError, InvalidError, KubeError, NamespaceEndingError, NotFoundError
from qwen_operator.kube.events import Recorder, Subject
from qwen_operator.kube.resources import (
    CLAIMS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    PODS,
    PROMETHEUS_RULES,
    QWEN_SERVICES,
    SERVICE_MONITORS,
    resource_for,
    resource_of,
)
from qwen_operator.planning.builders.common import stable_hash
from qwen_operator.planning.plan import ClusterFacts, Plan, PlanWarning, Reference, plan
from qwen_operator.planning.replicas import replicas_left_out
from qwen_operator.process.operator_metrics import WRITES
from qwen_operator.process.settings import Settings
from qwen_operator.status.conditions import ApplyError, Observed, Suspension, evaluate, invalid_status
from qwen_operator.status.transitions import status_patch, transitions

logger = logging.getLogger(__name__)


def fingerprint(obj: Mapping[str, Any]) -> str:
    """A hash of an object without its status and the metadata that the API server maintains."""
    ignored = ("resourceVersion", "managedFields", "generation", "creationTimestamp", "uid", "selfLink")
    metadata = {key: value for key, value in obj["metadata"].items() if key not in ignored}
    return stable_hash({**{key: obj[key] for key in obj if key not in ("status", "metadata")}, "metadata": metadata})


class Reconciler:
    """Reconciles services. At most one call at a time for each service."""

    def __init__(
        self,
        kube: KubeClient,
        cluster: ClusterCache,
        recorder: Recorder,
        settings: Settings,
        *,
        suspended: Callable[[Key], Suspension | None],
        gone: Callable[[Key], None],
    ) -> None:
        self._kube = kube
        self._cluster = cluster
        self._recorder = recorder
        self._settings = settings
        self._suspended = suspended
        self._gone = gone
        self._applied: dict[tuple[Key, str, str], tuple[str, str]] = {}
        self._warned: dict[Key, frozenset[PlanWarning]] = {}

    async def reconcile(self, key: Key) -> None:
        """Makes the cluster match the service's spec. Raises KubeError if it must be retried."""
        obj = self._cluster.service(key)
        if obj is None or "deletionTimestamp" in obj["metadata"]:
            self.forget(key)
            return
        now = datetime.now(UTC)
        try:
            service = self._with_replicas(key, QwenService.parse(obj))
        except InvalidSpecError as invalid:
            await self._write_status(obj, invalid_status(obj, invalid, now))
            return
        todo = plan(service, await self._facts(key, service))
        if not await self._still_there(key, service, todo):
            return
        if not service.replicas_given:  # first, so that drift of the Deployment is never taken for it
            await self._write_replicas(key, service.spec.replicas)
        error, retry = await self._apply(key, service, todo)
        retry = await self._remove(service, todo.removed) or retry
        self._tell_warnings(key, obj, todo.warnings)
        observed = Observed(
            deployment=self._cluster.deployment(key),
            pods=self._cluster.pods(key),
            apply_error=error,
            warnings=todo.warnings,
            remediation=service.status.remediation,
            suspended=self._suspended(key),
        )
        await self._write_status(obj, evaluate(service, observed, now))
        if retry is not None:
            raise retry

    def _with_replicas(self, key: Key, service: QwenService) -> QwenService:
        replicas = replicas_left_out(service, self._cluster.deployment(key))
        return service if replicas is None else service.with_replicas(replicas)

    async def _write_replicas(self, key: Key, replicas: int) -> None:
        """Writes the number of replicas that the spec leaves out: autoscalers read it there."""
        obj = self._cluster.service(key)
        if obj is None or (obj.get("spec") or {}).get("replicas") is not None:
            return
        # A number that somebody wrote in the meantime wins.
        seen = obj["metadata"].get("resourceVersion")
        body = {"metadata": {"resourceVersion": seen}, "spec": {"replicas": replicas}}
        try:
            await self._kube.patch(QWEN_SERVICES, key[1], key[0], body, subresource="scale")
        except KubeError as error:  # the Deployment has the number anyway, and the next round tries again
            logger.info("writing the replicas failed: %s", error, extra={"namespace": key[0], "service": key[1]})
        else:
            WRITES.labels("scale").inc()

    def forget(self, key: Key) -> None:
        """Drops what is known about a service."""
        self._warned.pop(key, None)
        for entry in [entry for entry in self._applied if entry[0] == key]:
            del self._applied[entry]

    async def _still_there(self, key: Key, service: QwenService, todo: Plan) -> bool:
        """Whether the service still exists. Checked before a child is created for it.

        kopf does not report a deletion that happened while its watch was interrupted. Children of a
        deleted service would be garbage collected and created again, forever.
        """
        if all(
            self._cluster.child(resource_for(child), key[0], child["metadata"]["name"]) is not None
            for child in todo.children
        ):
            return True
        try:
            live = await self._kube.get(QWEN_SERVICES, key[1], key[0])
        except NotFoundError:
            logger.info("the service was deleted", extra={"namespace": key[0], "service": key[1]})
            self._gone(key)
            return False
        if live["metadata"]["uid"] != service.uid:
            self._cluster.store_service(live)
            raise ConflictError(409, "there is a new QwenService with this name")
        return True

    async def _facts(self, key: Key, service: QwenService) -> ClusterFacts:
        cluster = self._cluster
        claims: dict[str, Object] = {}
        cache = service.spec.cache
        if cache is not None and cache.existing_claim:
            try:
                claims[cache.existing_claim] = await self._kube.get(CLAIMS, cache.existing_claim, key[0])
            except KubeError as error:
                logger.debug("reading the claim %s failed: %s", cache.existing_claim, error)
        return ClusterFacts(
            operator_version=__version__,
            server_images=self._settings.server_images,
            operator_namespace=self._settings.namespace,
            has_service_monitor=cluster.serves(SERVICE_MONITORS),
            has_prometheus_rule=cluster.serves(PROMETHEUS_RULES),
            has_http_route=cluster.serves(HTTP_ROUTES),
            live_deployment=cluster.deployment(key),
            budgets=cluster.budgets(key[0]),
            claims=claims,
        )

    async def _apply(self, key: Key, service: QwenService, todo: Plan) -> tuple[ApplyError | None, KubeError | None]:
        """Applies the children that differ. Returns the first error and the first retryable one.

        A dry run of the Deployment comes first: if it is rejected, nothing else changes either.
        """
        due = [child for child in todo.children if self._differs(key, child)]
        refused = await self._refused_template(due)
        retry: KubeError | None = None
        for child in () if refused else due:
            kind, name = child["kind"], child["metadata"]["name"]
            try:
                if not await self._may_take(service, child):
                    message = f"{kind} {name} exists and belongs to something else. Rename one of the two."
                    refused = refused or ApplyError("ApplyFailed", message)
                    continue
                await self._apply_one(key, child)
            except NamespaceEndingError:
                continue  # the QwenService will be deleted, too
            except KubeError as error:
                refused = refused or ApplyError("ApplyFailed", f"{kind} {name}: {error.message}")
                retry = retry or (None if isinstance(error, InvalidError) else error)
        return refused, retry

    async def _refused_template(self, due: Sequence[Object]) -> ApplyError | None:
        """Why the API server rejects the Deployment; None if it does not or the dry run fails."""
        for child in due:
            if resource_for(child) is DEPLOYMENTS:
                try:
                    await self._kube.apply(child, dry_run=True)
                except InvalidError as error:
                    return ApplyError("InvalidPodTemplate", error.message)
                except KubeError as error:
                    logger.debug("the dry run failed: %s", error)
        return None

    async def _apply_one(self, key: Key, child: Object) -> None:
        applied = await self._kube.apply(child)
        WRITES.labels(child["kind"]).inc()
        self._applied[(key, child["kind"], child["metadata"]["name"])] = (stable_hash(child), fingerprint(applied))
        self._cluster.store_child(resource_for(child), applied)
        if resource_for(child) is CONFIG_MAPS:
            await self._nudge(key, stable_hash(child["data"]))

    def _differs(self, key: Key, child: Object) -> bool:
        """Whether a child must be applied: its desired or its actual state changed."""
        metadata = child["metadata"]
        last = self._applied.get((key, child["kind"], metadata["name"]))
        if last is None or last[0] != stable_hash(child):
            return True
        live = self._cluster.child(resource_for(child), metadata["namespace"], metadata["name"])
        return live is None or last[1] != fingerprint(live)

    async def _may_take(self, service: QwenService, child: Object) -> bool:
        """Whether no object with this name exists, or it is ours.

        The cache has only objects with our label.
        """
        resource, metadata = resource_for(child), child["metadata"]
        live = self._cluster.child(resource, metadata["namespace"], metadata["name"])
        if live is None:
            try:
                live = await self._kube.get(resource, metadata["name"], metadata["namespace"])
            except NotFoundError:
                return True
        # A retained claim has no owner, so its labels decide.
        return is_owned_by(live, service.uid) or (
            "ownerReferences" not in metadata
            and child_labels(service.name).items() <= (live["metadata"].get("labels") or {}).items()
        )

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

    async def _remove(self, service: QwenService, references: Sequence[Reference]) -> KubeError | None:
        """Deletes what the spec no longer asks for.

        Returns the last error: the status is written anyway.
        """
        failure = None
        for reference in references:
            resource = resource_of(reference.api_version, reference.kind)
            live = self._cluster.child(resource, service.namespace, reference.name)
            if live is None or not is_owned_by(live, service.uid):
                continue
            try:
                await self._kube.delete(resource, reference.name, service.namespace, uid=live["metadata"]["uid"])
            except KubeError as error:
                failure = error
                continue
            WRITES.labels(reference.kind).inc()
            logger.info("removed %s %s/%s", reference.kind, service.namespace, reference.name)
        return failure

    async def _write_status(self, obj: Object, status: ServiceStatus) -> None:
        old, new = obj.get("status") or {}, status.to_dict()
        body = status_patch(old, new)
        if not body:
            return
        metadata = obj["metadata"]
        patch = {"metadata": {"uid": metadata["uid"]}, "status": body}
        try:
            patched = await self._kube.patch(
                QWEN_SERVICES, metadata["name"], metadata["namespace"], patch, subresource="status"
            )
        except (NotFoundError, ConflictError):
            return  # the service is gone, or replaced by another one with its name

        WRITES.labels("status").inc()
        self._cluster.store_service(patched)
        self._tell_transitions(obj, old.get("conditions") or (), new.get("conditions") or ())

    def _tell_transitions(
        self, obj: Object, old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
    ) -> None:
        for severity, item in transitions(old, new):
            text = item.get("message") or item["reason"]
            self._recorder.emit(Subject.of(obj), severity, item["reason"], f"{item['type']}={item['status']}: {text}")

    def _tell_warnings(self, key: Key, obj: Object, warnings: Sequence[PlanWarning]) -> None:
        known = self._warned.get(key, frozenset())
        for warning in warnings:
            if warning not in known:
                self._recorder.emit(Subject.of(obj), "Warning", warning.reason, warning.message)
        self._warned[key] = frozenset(warnings)
