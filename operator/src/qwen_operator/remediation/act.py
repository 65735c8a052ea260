"""Performs the steps that were decided: gates, restarts, ledger, Events, metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from qwen_operator.api import MAX_EVIDENCE, HistoryEntry, RemediationStatus, format_time
from qwen_operator.api.names import RESTART_ANNOTATION
from qwen_operator.api.objects import EventType, Key, Object
from qwen_operator.kube.errors import ConflictError, KubeError, NotFoundError, TooManyRequestsError
from qwen_operator.kube.events import Subject
from qwen_operator.kube.resources import PODS
from qwen_operator.process.operator_metrics import ACTIONS, WRITES
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.outlook import POSTPONED, Outlook
from qwen_operator.remediation.policy import Policy
from qwen_operator.remediation.restarts import DEAD, restart_id
from qwen_operator.remediation.steps import (
    BeginRestart,
    CloseGate,
    Died,
    ExecuteRestart,
    FinishRestart,
    OpenGate,
    Report,
    ResetBudget,
    Step,
    WouldDo,
)
from qwen_operator.remediation.symptoms import in_brackets, symptom
from qwen_operator.remediation.values import Evidence, Pod
from qwen_operator.remediation.views import termination_message
from qwen_operator.remediation.writes import Writer

logger = logging.getLogger(__name__)


HUNG_GRACE: Final = 5
"""Grace period in seconds of an evicted pod with a hung engine: it cannot finish any request."""

_OPENED: Final = {
    "NewPod": "it is a new pod",
    "Recovered": "three consecutive test generations succeeded",
    "Restarted": "its engine was restarted and a test generation succeeded",
    "NoEvidence": "its metrics cannot be read, and missing metrics never keep a pod out of rotation",
    "NotEnforced": "remediation is not enforced",
}
_FINISHED: Final = {
    "Recovered": "the restart of pod {} is complete: all pods are ready",
    "ReplacementPending": "pod {} was restarted but was not ready within rollout.startupTimeout",
    "NotCured": "the restart of pod {} did not help",
    "NotRestarted": "pod {} did not restart as requested",
    "Unattended": "the restart of pod {} continues, but remediation is no longer enforced",
    "Cancelled": "the restart of pod {} was cancelled: {}",
}


class ServiceActor:
    """Performs the steps of one round for one service.

    Each step gets an Event on the service and on the pod, an entry in the history, and is counted.
    """

    def __init__(
        self,
        writer: Writer,
        service: Object,
        pods: Mapping[str, Object],
        evidence: Mapping[str, Evidence | None],
        policy: Policy,
        *,
        outlooks: Mapping[str, Outlook] | None = None,
    ) -> None:
        self._writer = writer
        self._subject = Subject.of(service)
        self._key: Key = (self._subject.namespace, self._subject.name)
        self._pods = pods
        self._evidence = evidence
        self._policy = policy
        self._outlooks = outlooks or {}

    async def carry_out(self, steps: Sequence[Step]) -> None:
        """Performs the steps in order. After a failure the next round decides again."""
        for step in steps:
            try:
                await self._one(step)
            except KubeError as error:
                logger.warning(
                    "%s failed: %s", type(step).__name__, error,
                    extra={"namespace": self._key[0], "service": self._key[1]},
                )  # fmt: skip

    async def _one(self, step: Step) -> None:
        match step:
            case OpenGate():
                await self._open(step)
            case CloseGate():
                await self._close(step)
            case BeginRestart():
                await self._begin(step)
            case ExecuteRestart():
                await self._execute(step)
            case FinishRestart():
                await self._finish(step)
            case Died():
                await self._died(step)
            case WouldDo():
                await self._would(step)
            case Report():
                self._report(step)
            case ResetBudget():
                await self._reset(step)

    async def _open(self, step: OpenGate) -> None:
        pod, reason = step.pod, step.reason
        text = _OPENED[reason]
        opened = await self._writer.set_gate(pod, self._key[0], is_open=True, reason=reason, message=text)
        if not opened or reason == "NewPod":
            return
        message = f"pod {pod.name} is back in rotation: {text}"
        self._tell(pod, "Normal", step.alert, action="Ready", reason="BackInRotation", message=message)
        await self._remember(self._entry(pod, step.alert, "Ready", reason=reason, message=message))

    async def _close(self, step: CloseGate) -> None:
        pod, alert = step.pod, step.alert
        what = self._symptom(pod, alert)
        text = f"taken out of rotation for {alert}{what}"
        if not await self._writer.set_gate(pod, self._key[0], is_open=False, reason=alert or "Unhealthy", message=text):
            return
        message = f"pod {pod.name} was taken out of rotation: {alert} is active{what}.{self._next(pod)}"
        self._tell(pod, "Warning", alert, action="Unready", reason="TakenOutOfRotation", message=message)
        await self._remember(self._entry(pod, alert, "Unready", reason=alert, message=message))

    async def _begin(self, step: BeginRestart) -> None:
        pod, intent = step.pod, step.intent
        how = "in place" if intent.method == "InPlace" else "by eviction"
        what, policy = self._symptom(pod, intent.alert), self._policy
        message = (
            f"pod {pod.name} will be restarted {how}: {intent.alert} persists{what}; it is restart "
            f"{len(step.counted) + 1} of {policy.max_restarts} within {policy.window:g} s"
        )
        entry = self._entry(pod, intent.alert, intent.method, reason=intent.alert, message=message)

        def change(ledger: RemediationStatus) -> RemediationStatus | None:
            # The decision may be based on an older status. Then the next round decides again.
            if ledger.intents or tuple(ledger.restart_times) != step.based_on:
                return None
            begun = ledgers.begin(ledger, intent, self._policy, step.counted, step.hardware)
            return ledgers.remember(begun, [entry])

        if await self._writer.update(self._key, change) is not None:
            self._tell(pod, "Warning", intent.alert, action=intent.method, reason="RestartDecided", message=message)

    async def _execute(self, step: ExecuteRestart) -> None:
        pod, intent, namespace = step.pod, step.intent, self._key[0]
        kube = self._writer.kube
        try:
            if intent.method == "InPlace":
                body = {"metadata": {"uid": pod.uid, "annotations": {RESTART_ANNOTATION: restart_id(intent)}}}
                self._writer.store_pod(await kube.patch(PODS, pod.name, namespace, body))
            else:
                grace = HUNG_GRACE if step.hung else None
                await kube.evict(pod.name, namespace, uid=pod.uid, grace_seconds=grace)
        except TooManyRequestsError as error:
            message = f"the eviction of pod {pod.name} is blocked: {error.message}"
            self._tell(pod, "Warning", intent.alert, action="Evict", reason="EvictionBlocked", message=message)
            entry = self._entry(pod, intent.alert, "Blocked", reason="EvictionBlocked", message=message)
            await self._writer.update(
                self._key,
                lambda ledger: ledgers.blocked(ledger, intent, entry, self._policy),
            )
            return
        except (NotFoundError, ConflictError):
            pass  # the pod is gone already
        WRITES.labels("restart").inc()
        reason = "RestartedInPlace" if intent.method == "InPlace" else "Evicted"
        last = intent.time + timedelta(seconds=self._policy.drain + self._policy.startup)
        self._tell(
            pod,
            "Warning",
            intent.alert,
            action=intent.method,
            reason=reason,
            message=f"pod {pod.name} is being restarted, which may take until {format_time(last)}",
        )
        moved = intent.model_copy(update={"phase": "Restarting" if intent.method == "InPlace" else "Waiting"})
        await self._writer.update(self._key, lambda ledger: ledgers.progress(ledger, moved))

    async def _finish(self, step: FinishRestart) -> None:
        intent, outcome = step.intent, step.outcome
        pod = Pod(uid=intent.pod_uid, name=intent.pod)
        text = _FINISHED[outcome].format(intent.pod, step.why)
        entry = self._entry(
            pod, intent.alert, "Restarted" if outcome == "Recovered" else outcome, reason=outcome, message=text
        )
        refund = outcome == "Cancelled"
        done = await self._writer.update(
            self._key,
            lambda ledger: ledgers.remember(ledgers.finish(ledger, intent, refund=refund), [entry]),
        )
        if done is not None:
            kind: EventType = "Normal" if outcome == "Recovered" else "Warning"
            self._tell(pod, kind, intent.alert, action=entry.action, reason=f"Restart{outcome}", message=text)

    async def _died(self, step: Died) -> None:
        pod = step.pod
        message = f"the engine of pod {pod.name} died; the kubelet restarts its container"
        cause = termination_message(self._pods[pod.uid]) if pod.uid in self._pods else ""
        detailed = f"{message}: {cause[-300:]}" if cause else message
        self._tell(pod, "Warning", DEAD, action="Died", reason=DEAD, message=detailed)
        await self._remember(self._entry(pod, DEAD, "Died", reason=DEAD, message=message))

    def _report(self, step: Report) -> None:
        message = step.message
        if step.reason != POSTPONED:
            message = f"{message}{self._symptom(step.pod, step.alert)}"
        if step.reason == "KeptInRotation":
            message = f"{message}.{self._next(step.pod)}"
        self._tell(step.pod, "Warning", step.alert, action="Event", reason=step.reason, message=message)

    async def _would(self, step: WouldDo) -> None:
        wanted, pod = step.step, step.step.pod
        if isinstance(wanted, CloseGate):
            alert, what = wanted.alert, "Unready"
            message = f"dry run: pod {pod.name} would be taken out of rotation: {alert} is active"
        else:
            alert, what = wanted.intent.alert, wanted.intent.method
            message = f"dry run: pod {pod.name} would be restarted ({what}): {alert} persists"
        self._tell(pod, "Warning", alert, action=what, reason="DryRun", message=message)
        await self._remember(self._entry(pod, alert, what, reason="DryRun", message=message, dry_run=True))

    async def _reset(self, step: ResetBudget) -> None:
        if await self._writer.update(self._key, lambda ledger: ledgers.reset(ledger, step.value)) is not None:
            self._writer.recorder.emit(
                self._subject, "Normal", "RestartBudgetReset", "the restart budget was reset by the annotation"
            )

    async def _remember(self, entry: HistoryEntry) -> None:
        await self._writer.update(self._key, lambda ledger: ledgers.remember(ledger, [entry]))

    def _entry(
        self, pod: Pod, alert: str, action: str, *, reason: str, message: str, dry_run: bool = False
    ) -> HistoryEntry:
        obj = self._pods.get(pod.uid)
        evidence = self._evidence.get(pod.uid)
        metrics = "" if evidence is None else json.dumps(_short(evidence.raw), ensure_ascii=False)
        return HistoryEntry(
            time=self._writer.now(),
            pod=pod.name,
            pod_uid=pod.uid,
            node=pod.node,
            alert=alert,
            action=action,
            reason=reason,
            message=message[: MAX_EVIDENCE // 2],
            dry_run=dry_run,
            metrics=metrics[:MAX_EVIDENCE],
            termination_message="" if obj is None else termination_message(obj)[-MAX_EVIDENCE:],
        )

    def _symptom(self, pod: Pod, alert: str) -> str:
        """What the pod reports about an alert, in brackets."""
        return in_brackets(symptom(self._evidence.get(pod.uid), alert))

    def _next(self, pod: Pod) -> str:
        """What is next for a pod, after a blank; empty if that is not known."""
        outlook = self._outlooks.get(pod.uid)
        return f" {outlook.text}" if outlook is not None else ""

    def _tell(self, pod: Pod, kind: EventType, alert: str, *, action: str, reason: str, message: str) -> None:
        namespace, name = self._key
        recorder = self._writer.recorder
        ACTIONS.labels(namespace, name, alert, action, reason).inc()
        logger.info(message, extra={"namespace": namespace, "service": name, "pod": pod.name, "reason": reason})
        recorder.emit(self._subject, kind, reason, message, action=action)
        recorder.emit(Subject("v1", "Pod", namespace, pod.name, pod.uid), kind, reason, message, action=action)


def _short(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parts of a pod's metrics that explain an action."""
    return {name: raw[name] for name in ("status", "alerts", "requests", "uptime", "errors", "gpu") if name in raw}
