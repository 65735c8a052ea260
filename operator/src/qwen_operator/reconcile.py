"""Reconciles one QwenService: observe, plan, apply, remove, write the status. Idempotent."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from qwen_operator import __version__
from qwen_operator.api import API_VERSION, KIND, InvalidSpecError, QwenService, ServiceStatus
from qwen_operator.api.names import JOB_NAME_LABEL, child_name
from qwen_operator.api.objects import Key, Object, Owner, key_of
from qwen_operator.api.series import labels_of
from qwen_operator.children import Children
from qwen_operator.downloads import Ask, Downloads
from qwen_operator.kube.cache import ClusterCache
from qwen_operator.kube.claims import Claims
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ConflictError, KubeError, NotFoundError, worse
from qwen_operator.kube.events import Recorder, Subject
from qwen_operator.kube.pod_events import PodEvents
from qwen_operator.kube.resources import (
    AUTOSCALERS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    JOBS,
    PROMETHEUS_RULES,
    QWEN_SERVICES,
    RESOURCE_CLAIMS,
    SCALED_OBJECTS,
    SERVICE_MONITORS,
    SERVICES,
    resource_for,
)
from qwen_operator.planning.builders.ownership import is_ours, labels_select
from qwen_operator.planning.monitoring import RUNBOOKS, MonitoringDefaults
from qwen_operator.planning.plan import ClusterFacts, Plan, PlanWarning, plan
from qwen_operator.planning.plan_warnings import scaling_trouble
from qwen_operator.planning.replicas import replicas_left_out
from qwen_operator.process.operator_metrics import CONDITION, SCALED_TO_ZERO, WRITES
from qwen_operator.process.settings import Settings
from qwen_operator.status.adapters import Reports, adapter_statuses, adapter_warnings
from qwen_operator.status.conditions import ApplyError, Observed, Suspension, evaluate, invalid_status
from qwen_operator.status.diagnosis import EngineReport, is_active, is_held_up
from qwen_operator.status.download import DownloadView, Seen, view_download
from qwen_operator.status.transitions import status_patch, transitions

WAITING_SECONDS: Final = 10.0
"""How often a change is looked at that waits for pods that have just become ready."""

logger = logging.getLogger(__name__)


async def _silent(*_: str) -> bytes | None:
    return None


async def _unknown(*_: Any) -> str | None:
    return None


class Reconciler:
    """Reconciles services. At most one call at a time for each service.

    `ask(address, namespace)` returns what the pod of a download says, and
    `newest(key, pods, deployment)` the hash of the newest revision of a service.
    """

    def __init__(
        self,
        kube: KubeClient,
        cluster: ClusterCache,
        recorder: Recorder,
        settings: Settings,
        *,
        suspended: Callable[[Key], Suspension | None],
        gone: Callable[[Key], None],
        again: Callable[[Key, float], None],
        outlook: Callable[[Key], Mapping[str, str]] = lambda _: {},
        ask: Ask = _silent,
        load: Callable[[Key], Sequence[PlanWarning]] = lambda _: (),
        adapters: Callable[[Key], Reports] = lambda _: {},
        engines: Callable[[Key], Mapping[str, EngineReport]] = lambda _: {},
        newest: Callable[[Key, Sequence[Object], Object | None], Awaitable[str | None]] = _unknown,
    ) -> None:
        self._kube = kube
        self._cluster = cluster
        self._recorder = recorder
        self._settings = settings
        self._monitoring = MonitoringDefaults(settings.monitoring_labels, settings.runbook_base_url or RUNBOOKS)
        self._suspended = suspended
        self._gone = gone
        self._again = again
        self._outlook = outlook
        self._load = load
        self._adapters = adapters
        self._engines = engines
        self._newest = newest
        self._children = Children(kube, cluster, again, report=self._report_drift)
        self._pod_events = PodEvents(kube, again)
        self._claims = Claims(kube)
        self._downloads = Downloads(ask, again)
        self._warned: dict[Key, frozenset[PlanWarning]] = {}
        self._waiting: dict[Key, datetime] = {}  # since when a change waits for pods that are new

    async def reconcile(self, key: Key) -> KubeError | None:
        """Makes the cluster match the service's spec.

        Returns the first write of a child that has failed; it is tried again by itself. Raises
        KubeError if all of it must be tried again.
        """
        obj = self._cluster.service(key)
        if obj is None or "deletionTimestamp" in obj["metadata"]:
            self.forget(key)
            return None
        now = datetime.now(UTC)
        try:
            service = self._with_replicas(key, QwenService.parse(obj))
        except InvalidSpecError as invalid:
            await self._write_status(obj, invalid_status(obj, invalid, await self._observe(key, Subject.of(obj)), now))
            return None
        todo = plan(service, await self._facts(key, service, now))
        self._note_waiting(key, todo, now)
        if not await self._still_there(key, service, todo):
            return None
        if not service.replicas_given:  # first, so that drift of the Deployment is never taken for it
            await self._write_replicas(key, service.spec.replicas)
        # First, because an autoscaler of another kind is refused while the old one exists.
        left, stuck = await self._children.remove(key, service, todo.removed)
        errors, failure = await self._children.apply(key, service, todo.children)
        if todo.refused:
            errors.append(ApplyError("PodTemplateNotAllowed", todo.refused, "Deployment"))
        adapters = adapter_statuses(service.spec, self._reports(key))
        failing = adapter_warnings(adapters)
        self._report_warnings(key, obj, [*todo.warnings, *failing])
        seen = self._seen(key, service, todo)
        found = await self._observe(key, service, seen.held_up)
        observed = replace(
            found,
            apply_errors=[*errors, *left],
            warnings=[*todo.warnings, *failing, *self._load(key)],
            adapters=adapters,
            remediation=service.status.remediation,
            download=self._download(key, service, todo, replace(seen, events=found.events), now),
        )
        await self._write_status(obj, evaluate(service, observed, now))
        return worse(stuck, failure)

    async def _observe(self, key: Key, owner: Owner, of_download: Sequence[Object] = ()) -> Observed:
        """What there is of a service, whether its spec can be read or not.

        of_download: what holds up the download of the model.
        """
        pods = self._cluster.pods(key)
        held_up = [*of_download, *(pod for pod in pods if is_held_up(pod))]
        front = self._children.own(SERVICES, owner, child_name(key[1]))
        deployment = self._deployment(owner)
        return Observed(
            deployment=deployment,
            selector=_selector(front),
            port=_port(front),
            pods=pods,
            events=await self._pod_events.of(key, held_up),
            suspended=self._suspended(key),
            outlook=self._outlook(key),
            engines=self._engines(key),
            newest=await self._newest(key, pods, deployment),
        )

    def _reports(self, key: Key) -> Reports:
        """What the pods of a service say about their adapters, by the names of the pods."""
        said = self._adapters(key)
        pods = [pod["metadata"] for pod in self._cluster.pods(key) if is_active(pod)]
        return {pod["name"]: said.get(pod["uid"]) for pod in pods}

    def _deployment(self, owner: Owner) -> Object | None:
        """The Deployment of a service, and none that a deleted service of its name left behind."""
        return self._children.own(DEPLOYMENTS, owner, child_name(owner.name))

    def _with_replicas(self, key: Key, service: QwenService) -> QwenService:
        replicas = replicas_left_out(service, self._deployment(service))
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

    def _note_waiting(self, key: Key, todo: Plan, now: datetime) -> None:
        """Remembers since when a change of the pods waits, because it does not wait for ever."""
        if not todo.waits_for_young_pods:
            self._waiting.pop(key, None)
        else:
            self._waiting.setdefault(key, now)
            self._again(key, WAITING_SECONDS)  # the Deployment's status may say it sooner

    def forget(self, key: Key) -> None:
        """Drops what is known about a service."""
        self._waiting.pop(key, None)
        self._warned.pop(key, None)
        self._children.forget(key)
        self._pod_events.forget(key)
        self._claims.forget(key)
        self._downloads.forget(key)
        CONDITION.forget(labels_of(key))
        SCALED_TO_ZERO.forget(labels_of(key))

    def _seen(self, key: Key, service: QwenService, todo: Plan) -> Seen:
        """The Job that downloads the model and its pods, if there is one."""
        if todo.download is None:
            return Seen()
        of_job = {JOB_NAME_LABEL: todo.download.name}
        pods = [pod for pod in self._cluster.download_pods(key) if labels_select(of_job, pod)]
        return Seen(self._children.own(JOBS, service, todo.download.name), pods)

    def _download(self, key: Key, service: QwenService, todo: Plan, seen: Seen, now: datetime) -> DownloadView:
        """The view of the download, if a Job does it."""
        download = todo.download
        if download is None or download.done:
            self._downloads.forget(key)
        else:
            seen = replace(seen, figures=self._downloads.of(key, seen.pods))
        view = view_download(download, seen, before=service.status.download, now=now)
        if download is not None and not download.done and view.problem is None:
            self._again(key, 1.0)  # the pods no longer wait
        return view

    async def _still_there(self, key: Key, service: QwenService, todo: Plan) -> bool:
        """Whether the service still exists. Checked before a child is created for it.

        A deletion that fell into a gap of the watch shows only in the next list. Until then,
        children of a deleted service would be garbage collected and created again. A report of the
        service is proof enough, but only once.
        """
        if all(
            self._children.live(resource_for(child), key[0], child["metadata"]["name"]) is not None
            for child in todo.children
        ):
            return True
        if self._cluster.take_report(key):
            return True
        try:
            live: Object | None = await self._kube.get(QWEN_SERVICES, key[1], key[0])
        except NotFoundError:
            live = None
        if live is None or live["metadata"]["uid"] != service.uid:
            known = self._cluster.service(key)
            if known is not None and known["metadata"]["uid"] == service.uid:
                logger.info("the service was deleted", extra={"namespace": key[0], "service": key[1]})
                self._gone(key)
            return False
        return True

    async def _facts(self, key: Key, service: QwenService, now: datetime) -> ClusterFacts:
        cluster = self._cluster
        claims = await self._claims.of(service, cluster.pods(key))  # first, since it may take a while
        return ClusterFacts(
            operator_version=__version__,
            server_images=self._settings.server_images,
            pull_secrets=self._settings.server_pull_secrets,
            pod_template_allow=self._settings.pod_template_allow,
            operator_namespace=self._settings.namespace,
            has_service_monitor=cluster.serves(SERVICE_MONITORS),
            has_prometheus_rule=cluster.serves(PROMETHEUS_RULES),
            has_http_route=cluster.serves(HTTP_ROUTES),
            has_scaled_object=cluster.serves(SCALED_OBJECTS),
            has_resource_claims=cluster.serves(RESOURCE_CLAIMS),
            live_deployment=self._deployment(service),
            waited_seconds=(now - self._waiting.get(key, now)).total_seconds(),
            unready_seconds=_unready_seconds(service, now),
            budgets=cluster.budgets(key[0]),
            jobs=[job for job in cluster.jobs(key) if is_ours(job, service)],
            claims=claims,
            prometheuses=cluster.surroundings.prometheuses,
            namespace_labels=cluster.surroundings.namespaces.get(key[0]),
            monitoring=self._monitoring,
            metrics_keys=self._settings.metrics_keys,
            ingress_classes=cluster.surroundings.ingress_classes,
            scaling_trouble=scaling_trouble(self._autoscaler(service), now),
        )

    def _autoscaler(self, service: QwenService) -> Object | None:
        scaling = service.spec.autoscaling
        resource = SCALED_OBJECTS if scaling is not None and scaling.scaler == "KEDA" else AUTOSCALERS
        return self._children.own(resource, service, child_name(service.name))

    async def _write_status(self, obj: Object, status: ServiceStatus) -> None:
        self._show(key_of(obj), status)
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
        self._report_transitions(obj, old.get("conditions") or (), new.get("conditions") or ())

    def _show(self, key: Key, status: ServiceStatus) -> None:
        """Shows the conditions to Prometheus, unless the service was deleted in the meantime."""
        if self._cluster.service(key) is None:
            return
        for condition in status.conditions:
            CONDITION.set(labels_of(key), condition.status == "True", condition.type)
        ready = status.condition("Ready")
        SCALED_TO_ZERO.set(labels_of(key), ready is not None and ready.reason == "ScaledToZero")

    def _report_transitions(
        self, obj: Object, old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
    ) -> None:
        for severity, item in transitions(old, new):
            text = item.get("message") or item["reason"]
            self._recorder.emit(Subject.of(obj), severity, item["reason"], f"{item['type']}={item['status']}: {text}")

    def _report_warnings(self, key: Key, obj: Object, warnings: Sequence[PlanWarning]) -> None:
        known = self._warned.get(key, frozenset())
        for warning in warnings:
            if warning not in known:
                self._recorder.emit(Subject.of(obj), "Warning", warning.reason, warning.message)
        self._warned[key] = frozenset(warnings)

    def _report_drift(self, service: QwenService, reason: str, message: str) -> None:
        subject = Subject(API_VERSION, KIND, service.namespace, service.name, service.uid)
        logger.info(message, extra={"namespace": service.namespace, "service": service.name, "reason": reason})
        self._recorder.emit(subject, "Warning", reason, message)


def _selector(front: Object | None) -> Mapping[str, str] | None:
    """Which pods our own Service selects; None if there is none."""
    return None if front is None else front["spec"].get("selector") or {}


def _port(front: Object | None) -> str:
    """The name of the pods' port that the Service sends requests to; empty for a number."""
    ports = () if front is None else front["spec"].get("ports") or ()
    names = [port.get("targetPort") for port in ports]
    return next((name for name in names if isinstance(name, str)), "")


def _unready_seconds(service: QwenService, now: datetime) -> float | None:
    """For how long the status has said that the service is not Ready.

    None if it says that it is, infinite if it says nothing.
    """
    ready = service.status.condition("Ready")
    if ready is None:
        return math.inf
    if ready.status == "True":
        return None
    return (now - ready.last_transition_time).total_seconds()
