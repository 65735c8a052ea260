"""Computes the status from what was observed. Pure; the clock is passed in.

Ready                 True: at least one pod is ready, no alert says that it answers nothing, and
                      our own Service selects it, even if something else is wrong.
Available             True: the Deployment has its minimum of pods, ready for minReadySeconds.
Progressing           True: a change or a start is in progress. False: Complete, or stopped
                      (RolloutStalled, ...).
Degraded              True: something failed that does not recover by itself. Older pods may serve.
RemediationSuspended  True: remediation has stopped acting. A person should look into it.
HasWarnings           True: something in the spec will not work as its author may expect, or the
                      pods get more requests than they can serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from qwen_operator.api import InvalidSpecError, QwenService, RemediationStatus, ServiceStatus, format_time, parse_time
from qwen_operator.api.names import selector_string, service_url
from qwen_operator.api.qwenservice import parse_status
from qwen_operator.api.status import AdapterStatus
from qwen_operator.planning.builders.ownership import has_port, labels_select
from qwen_operator.planning.builders.source import served_name
from qwen_operator.planning.plan_warnings import YOUNG_PODS, PlanWarning
from qwen_operator.status.diagnosis import EngineReport, Problem, answers, diagnose, is_active, judged, worst
from qwen_operator.status.download import DownloadView
from qwen_operator.status.failed_pods import last_failed
from qwen_operator.status.model import model_in_pods
from qwen_operator.status.revisions import of_newest
from qwen_operator.status.verdicts import Verdict, stamp

# Without these no pod gets requests. Their errors come in this order.
_SERVING: Final = ("Service", "Deployment", "Job", "ConfigMap", "PersistentVolumeClaim")


@dataclass(frozen=True)
class ApplyError:
    """A child that could not be applied.

    Attributes:
        reason: InvalidPodTemplate (the API server refuses the Deployment), PodTemplateNotAllowed
            (the operator does), NameTaken (an object of somebody else has the child's name) or
            ApplyFailed.
        message: what was refused, with its name.
        kind: the child's kind.
    """

    reason: str
    message: str
    kind: str = ""


@dataclass(frozen=True)
class Suspension:
    """Why remediation has stopped acting, such as BudgetExhausted or PodsUnreachable."""

    reason: str
    message: str


@dataclass(frozen=True)
class Observed:
    """What was observed of a service.

    Attributes:
        deployment: its Deployment, None if there is none.
        pods: all of its pods, including those that are being deleted.
        events: the Events of pods that are held up, by the UID of the pod.
        selector: which pods the service's own Service selects; None if it has none, for instance
            because somebody else's has its name.
        port: the name of the pods' port to which the Service sends requests; empty for any.
        apply_errors: the children that could not be applied.
        warnings: the warnings of the plan.
        remediation: the state of remediation; None keeps what the status says.
        suspended: why remediation has stopped acting; None while it is active.
        outlook: what remediation does next about pods out of rotation, by the UID of the pod.
        download: the download of the model by a Job.
        adapters: the LoRA adapters in the pods.
        engines: what the pods' metrics say about their engines, by the UID of the pod.
        newest: the revision of the Deployment's pods whose problems count, as soon as it has pods;
            None if it is not known, or all pods are of one.
    """

    deployment: Mapping[str, Any] | None = None
    pods: Sequence[Mapping[str, Any]] = ()
    selector: Mapping[str, str] | None = None
    port: str = ""
    events: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    apply_errors: Sequence[ApplyError] = ()
    warnings: Sequence[PlanWarning] = ()
    remediation: RemediationStatus | None = None
    suspended: Suspension | None = None
    outlook: Mapping[str, str] = field(default_factory=dict)
    download: DownloadView = field(default_factory=DownloadView)
    adapters: Sequence[AdapterStatus] = ()
    engines: Mapping[str, EngineReport] = field(default_factory=dict)
    newest: str | None = None


@dataclass(frozen=True)
class _View:
    """What the conditions are computed from.

    Attributes:
        active: the number of pods that are neither finished nor being deleted.
        startup: how long a pod may take to start; zero if the spec cannot be read.
    """

    desired: int
    active: int
    ready: int
    unselected: Sequence[str]
    portless: Sequence[str]
    problem: Problem | None
    deployment: Mapping[str, Any]
    observed: Observed
    url: str
    startup: timedelta = timedelta()
    drain: timedelta = timedelta()

    @property
    def error(self) -> ApplyError | None:
        """The most important child that could not be applied, with the messages of all."""
        errors = sorted(self.observed.apply_errors, key=lambda error: _importance(error.kind))
        if not errors:
            return None
        return ApplyError(errors[0].reason, " ".join(error.message for error in errors), errors[0].kind)

    @property
    def failure(self) -> Problem | None:
        return self.problem if self.problem is not None and self.problem.is_failure else None

    def deployment_condition(self, kind: str) -> Mapping[str, Any]:
        conditions = self.deployment.get("status", {}).get("conditions") or ()
        return next((condition for condition in conditions if condition["type"] == kind), {})

    @property
    def stalled(self) -> bool:
        return self.deployment_condition("Progressing").get("reason") == "ProgressDeadlineExceeded"

    @property
    def rolling(self) -> bool:
        """Whether the Deployment has not reached its desired state yet."""
        available = self.deployment.get("status", {}).get("availableReplicas", 0)
        return not self.updated or available != self.desired

    @property
    def updated(self) -> bool:
        """Whether all pods are of the current revision and none is missing."""
        status = self.deployment.get("status", {})
        observed = status.get("observedGeneration", 0) >= self.deployment.get("metadata", {}).get("generation", 0)
        updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
        return bool(observed and updated == total == self.desired)


def evaluate(service: QwenService, observed: Observed, now: datetime) -> ServiceStatus:
    """The status to write. A condition keeps its lastTransitionTime until its status changes."""
    rollout, drain = service.spec.rollout, service.spec.drain
    url = service_url(service.name, service.namespace, service.spec.service.port)
    view = _view(observed, service.spec.replicas, url, now, rollout.startup_timeout)
    view = replace(view, startup=rollout.startup_timeout, drain=drain.timeout)
    verdicts = [_ready(view), _progressing(view), _available(view), _degraded(view), _suspended(view), _warned(view)]
    return ServiceStatus(
        observed_generation=service.generation,
        replicas=view.active,
        ready_replicas=view.ready,
        selector=selector_string(service.name),
        url=view.url,
        model=model_in_pods(served_name(service.spec), observed.pods),
        gpus=service.spec.gpu_count,
        reason=_headline(verdicts),
        conditions=stamp(verdicts, service.status, service.generation, now),
        remediation=observed.remediation or service.status.remediation,
        download=observed.download.status,
        adapters=list(observed.adapters),
    )


def _view(observed: Observed, desired: int, url: str, now: datetime, startup: timedelta | None = None) -> _View:
    active = [pod for pod in observed.pods if is_active(pod)]
    ready = [pod for pod in active if answers(pod, observed.engines.get(pod["metadata"]["uid"]))]
    if any(error.reason == "NameTaken" and error.kind in ("Service", "Deployment") for error in observed.apply_errors):
        ready = []  # whatever is ready there is not what the spec describes, or clients do not reach it
    unselected = [pod["metadata"]["name"] for pod in ready if not labels_select(observed.selector, pod)]
    portless = [pod["metadata"]["name"] for pod in ready if not has_port(pod, observed.port)]
    return _View(
        desired=desired,
        active=len(active),
        ready=len(ready) - len({*unselected, *portless}),
        unselected=unselected,
        portless=portless,
        problem=_problem(desired, observed, now, startup),
        deployment=observed.deployment or {},
        observed=observed,
        url=url,
    )


def _problem(desired: int, observed: Observed, now: datetime, startup: timedelta | None) -> Problem | None:
    """The worst problem of the pods. Until a replacement has started, it is why the last failed."""
    pods = of_newest(observed.pods, observed.newest)
    active = [pod for pod in pods if is_active(pod)]
    uids = [pod["metadata"]["uid"] for pod in active]
    found = [
        diagnose(pod, observed.events.get(uid, ()), observed.outlook.get(uid, ""), observed.engines.get(uid))
        for pod, uid in zip(active, uids, strict=True)
    ]
    problems = [judged(problem, now, startup) for problem in found if problem is not None]
    if len(active) < desired or any(problem.reason == "Starting" for problem in problems):
        failed = last_failed(pods, now)
        problems += [] if failed is None else [failed]
    if observed.download.problem is not None:
        problems.append(observed.download.problem)
    return worst(problems)


def invalid_status(obj: Mapping[str, Any], error: InvalidSpecError, observed: Observed, now: datetime) -> ServiceStatus:
    """The status of an object that cannot be parsed: Progressing is False with reason InvalidSpec.

    Running pods are not touched. Ready, Available, RemediationSuspended and the numbers are theirs;
    a service that never ran is not Ready. What only a spec can say stays as it was: the condition
    HasWarnings says of which generation it is.
    """
    status, deployment = parse_status(obj), observed.deployment
    desired = len(observed.pods) if deployment is None else int(deployment["spec"].get("replicas", 1))
    view = _view(observed, desired, status.url or "its Service", now)
    message = f"{error}. Running pods are not changed. Correct the field."
    by_type = {
        kind: Verdict(kind, kind == "Degraded", "InvalidSpec", message)
        for kind in ("Ready", "Progressing", "Available", "Degraded")
    }
    if deployment is not None or view.active:
        by_type |= {verdict.type: verdict for verdict in (_ready(view), _available(view), _suspended(view))}
    verdicts = list(by_type.values())
    generation = int(obj["metadata"].get("generation", 0))
    fresh = {condition.type: condition for condition in stamp(verdicts, status, generation, now)}
    kept = [fresh.pop(condition.type, condition) for condition in status.conditions]
    update = {
        "observed_generation": generation,
        "replicas": view.active,
        "ready_replicas": view.ready,
        "reason": _headline(verdicts),
        "conditions": [*kept, *fresh.values()],
    }
    return status.model_copy(update=update)


def _ready(view: _View) -> Verdict:
    if view.ready:
        more = view.ready - view.desired  # those that are about to be replaced or removed
        others = f" and {more} more {'pod' if more == 1 else 'pods'}" if more > 0 else ""
        count = f"{min(view.ready, view.desired)} of {view.desired} replicas{others}"
        return Verdict("Ready", True, "Serving", f"{count} serve at {view.url}.")
    return Verdict("Ready", False, *_why_not(view))


def _why_not(view: _View) -> tuple[str, str]:
    """Reason and message of a service without a ready pod behind its Service."""
    error = view.error
    refused = view.deployment_condition("ReplicaFailure")
    if view.desired == 0:
        return "ScaledToZero", "spec.replicas is 0. Increase it to serve requests."
    if error is not None and error.kind in _SERVING and view.failure is None:
        return error.reason, error.message
    if view.problem is not None:
        return view.problem.reason, _explain(view, view.problem)
    if refused.get("status") == "True":
        return "PodsRefused", f"Pods cannot be created: {refused.get('message', '')}"
    return _unreached(view)


def _unreached(view: _View) -> tuple[str, str]:
    """Why the Service reaches no pod although pods are ready."""
    if view.unselected and view.observed.selector is None:
        return "NotSelected", "The Service is missing. It is created again when the spec is correct."
    if view.unselected:
        names = ", ".join(view.unselected)
        return "NotSelected", f"The Service does not select {names}. Restore the labels of the pods."
    if view.portless:
        names, port = ", ".join(view.portless), view.observed.port
        return "PortMissing", f"No container of {names} has the port {port} of the Service. Restore it in podTemplate."
    return "Starting", "The pods are being created."


def _importance(kind: str) -> int:
    return _SERVING.index(kind) if kind in _SERVING else len(_SERVING)


def _explain(view: _View, problem: Problem) -> str:
    remedy = problem.remedy
    if problem.reason == "ModelLoading" and view.startup and (began := parse_time(problem.since)) is not None:
        remedy = f"It may take until {format_time(began + view.startup)} (rollout.startupTimeout)."
    place = f"Pod {problem.pod}:" if problem.pod else ""
    return " ".join(part for part in (place, problem.detail.rstrip(".") + ".", remedy) if part)


def _progressing(view: _View) -> Verdict:
    error = view.error
    if error is not None:
        return Verdict("Progressing", False, error.reason, error.message)
    waiting = view.observed.download.problem
    if waiting is not None:  # before what is said of the pods, which have an older model
        return Verdict("Progressing", not waiting.is_failure, waiting.reason, _explain(view, waiting))
    if YOUNG_PODS in view.observed.warnings:  # before what is wrong with the pods that it replaces
        return Verdict("Progressing", True, YOUNG_PODS.reason, YOUNG_PODS.message)
    if view.stalled:
        given = view.deployment_condition("Progressing").get("message", "")
        cause = _explain(view, view.problem) if view.problem else given
        message = f"The rollout made no progress within rollout.startupTimeout. {cause}"
        return Verdict("Progressing", False, "RolloutStalled", message)
    if view.rolling:
        reason, message = "RollingOut", "The pods are being updated to the spec."
        if view.updated:
            reason, message = "AvailabilityPending", "No pod is being replaced. Some wait for minReadySeconds."
        if view.problem is not None:
            reason, message = view.problem.reason, _explain(view, view.problem)
        return Verdict("Progressing", True, reason, message)
    return _settled(view)


def _settled(view: _View) -> Verdict:
    """Progressing of a service whose Deployment has reached its desired state."""
    intents = view.observed.remediation.intents if view.observed.remediation else []
    waiting = [intent for intent in intents if intent.phase == "Waiting"]
    if waiting:
        names = ", ".join(intent.pod for intent in waiting)
        until = format_time(max(intent.time for intent in waiting) + view.drain + view.startup)
        message = f"The replacement of {names} is not ready yet. It may take until {until} (rollout.startupTimeout)."
        return Verdict("Progressing", True, "ReplacementPending", message)
    pending = next((warning for warning in view.observed.warnings if warning.reason == "UpdatePending"), None)
    if pending is not None:
        return Verdict("Progressing", False, pending.reason, pending.message)
    return Verdict("Progressing", False, "Complete", "Everything matches the spec.")


def _available(view: _View) -> Verdict:
    if view.deployment_condition("Available").get("status") == "True" and view.ready:
        return Verdict(
            "Available", True, "MinimumReplicasAvailable", "Enough pods have been ready for minReadySeconds."
        )
    if view.ready:
        return Verdict(
            "Available", False, "MinimumReplicasUnavailable", "Too few pods have been ready for minReadySeconds."
        )
    return Verdict("Available", False, *_why_not(view))


def _degraded(view: _View) -> Verdict:
    error, suspended = view.error, view.observed.suspended
    refused = view.deployment_condition("ReplicaFailure")
    if error is not None:
        return Verdict("Degraded", True, error.reason, error.message)
    if view.failure is not None:
        return Verdict("Degraded", True, view.failure.reason, _explain(view, view.failure))
    if refused.get("status") == "True":
        return Verdict("Degraded", True, "PodsRefused", f"Pods cannot be created: {refused.get('message', '')}")
    if view.stalled:
        return Verdict(
            "Degraded", True, "RolloutStalled", "The rollout makes no progress. See the condition Progressing."
        )
    if suspended is not None:
        return Verdict("Degraded", True, suspended.reason, suspended.message)
    return Verdict("Degraded", False, "AsExpected")


def _suspended(view: _View) -> Verdict:
    suspended = view.observed.suspended
    if suspended is None:
        return Verdict("RemediationSuspended", False, "Active")
    return Verdict("RemediationSuspended", True, suspended.reason, suspended.message)


def _warned(view: _View) -> Verdict:
    warnings = view.observed.warnings
    if not warnings:
        return Verdict("HasWarnings", False, "None")
    message = " ".join(f"{warning.reason}: {warning.message.rstrip('.')}." for warning in warnings)
    return Verdict("HasWarnings", True, warnings[0].reason, message)


def _headline(verdicts: Sequence[Verdict]) -> str:
    """The reason that `kubectl get -o wide` shows."""
    by_type = {verdict.type: verdict for verdict in verdicts}
    scaled_to_zero = by_type["Ready"].reason == "ScaledToZero"  # which is no fault, and may hide one
    if not by_type["Ready"].holds and not (scaled_to_zero and by_type["Degraded"].holds):
        return by_type["Ready"].reason
    for kind in ("Degraded", "Progressing"):
        if by_type[kind].holds:
            return by_type[kind].reason
    return by_type["Ready"].reason
