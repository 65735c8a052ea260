"""Performs the steps that were decided: gates, restarts, ledger, Events, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from qwen_operator.api import MAX_EVIDENCE, HistoryEntry, RemediationStatus, RestartIntent, format_time
from qwen_operator.api.names import RESTART_ANNOTATION, RESTART_ENGINE_ANNOTATION
from qwen_operator.api.objects import EventType, Key, Object
from qwen_operator.kube.errors import ConflictError, KubeError, NotFoundError, TooManyRequestsError
from qwen_operator.kube.events import Subject
from qwen_operator.kube.resources import PODS
from qwen_operator.process.operator_metrics import WRITES
from qwen_operator.remediation import figures
from qwen_operator.remediation import ledger as ledgers
from qwen_operator.remediation.gate_tries import GateTries
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
    Recount,
    Report,
    ResetBudget,
    Step,
    WouldDo,
)
from qwen_operator.remediation.symptoms import in_brackets, symptom
from qwen_operator.remediation.values import Evidence, Pod
from qwen_operator.remediation.views import termination_message
from qwen_operator.remediation.writes import Writer
from qwen_operator.status.diagnosis import EXIT_ENGINE_DIED

logger = logging.getLogger(__name__)


HUNG_GRACE: Final = 5
"""Grace period in seconds of an evicted pod with a hung engine: it cannot finish any request."""
ROUND_SECONDS: Final = 30.0
"""Seconds after which the steps of a round that have not begun are left to the next round."""
GATES_AT_ONCE: Final = 8
"""Gates of a service that are written at the same time."""
BUSY_SECONDS: Final = 60.0
"""Seconds for which a restart is tried again that the API server neither makes nor refuses."""

_GATES: Final = (OpenGate, CloseGate)
_RESTARTS: Final = (BeginRestart, ExecuteRestart)
_REPORTS: Final = (Report, Died, WouldDo)
"""Steps that only report something, and that the next round would not decide again."""

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


_HOW: Final = {"Engine": "by a new engine in its server", "InPlace": "in place", "Evict": "by eviction"}
_MADE: Final = {"Engine": "EngineRestarted", "InPlace": "RestartedInPlace", "Evict": "Evicted"}


class ServiceActor:
    """Performs the steps of one round for one service.

    Each step gets an Event on the service and on the pod, an entry in the history, and is counted.
    `beat` is called before each step, since a slow API server makes a round long.
    """

    def __init__(
        self,
        writer: Writer,
        service: Object,
        pods: Mapping[str, Object],
        evidence: Mapping[str, Evidence | None],
        policy: Policy,
        *,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        outlooks: Mapping[str, Outlook] | None = None,
        tries: GateTries | None = None,
    ) -> None:
        self._writer = writer
        self._subject = Subject.of(service)
        self._key: Key = (self._subject.namespace, self._subject.name)
        self._pods = pods
        self._evidence = evidence
        self._policy = policy
        self._beat = beat
        self._clock = clock
        self._history: list[HistoryEntry] = []
        self._outlooks = outlooks or {}
        self._tries = tries or GateTries()

    async def carry_out(self, steps: Sequence[Step]) -> None:
        """Performs the steps: first the gates, several at a time, then the others in order.

        After a failure the next round decides again, and so it does about steps that have not begun
        after half a minute: by then their evidence is old. Restarts have the time of three polls.
        """
        start = self._clock()
        slots = asyncio.Semaphore(GATES_AT_ONCE)

        async def perform(step: Step) -> None:
            async with slots:
                seconds = self._policy.current_for if isinstance(step, _RESTARTS) else ROUND_SECONDS
                if self._clock() < start + seconds or isinstance(step, _REPORTS):
                    await self._guarded(type(step).__name__, self._one(step))

        await asyncio.gather(*(perform(step) for step in steps if isinstance(step, _GATES)))
        for step in steps:
            if isinstance(step, _GATES):
                continue
            if not isinstance(step, _REPORTS):
                await self._write_history()  # so that it is in order
            await perform(step)
        await self._write_history()

    async def _guarded(self, name: str, work: Awaitable[object]) -> None:
        """Awaits the work of a step, whose failure must not prevent the other steps."""
        self._beat()
        where = {"namespace": self._key[0], "service": self._key[1]}
        try:
            await work
        except KubeError as error:
            logger.warning("%s failed: %s", name, error, extra=where)
        except Exception:
            logger.exception("%s failed", name, extra=where)

    async def _write_history(self) -> None:
        """Writes the entries of several steps at once."""
        entries, self._history = self._history, []
        if entries:
            work = self._writer.update(self._key, lambda ledger: ledgers.remember(ledger, entries))
            await self._guarded("writing the history", work)

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
                self._died(step)
            case WouldDo():
                self._would(step)
            case Report():
                self._report(step)
            case ResetBudget():
                await self._reset(step)
            case Recount():
                await self._recount(step)

    async def _open(self, step: OpenGate) -> None:
        pod, reason = step.pod, step.reason
        text = _OPENED[reason]
        if not await self._set_gate(pod, is_open=True, reason=reason, message=text) or reason == "NewPod":
            return
        message = f"pod {pod.name} is back in rotation: {text}"
        self._emit(pod, "Normal", step.alert, action="Ready", reason="BackInRotation", message=message)
        self._history.append(self._entry(pod, step.alert, "Ready", reason=reason, message=message))

    async def _close(self, step: CloseGate) -> None:
        pod, alert = step.pod, step.alert
        what = self._symptom(pod, alert)
        text = f"taken out of rotation for {alert}{what}"
        if not await self._set_gate(pod, is_open=False, reason=alert or "Unhealthy", message=text):
            return
        message = f"pod {pod.name} was taken out of rotation: {alert} is active{what}.{self._next(pod)}"
        self._emit(pod, "Warning", alert, action="Unready", reason="TakenOutOfRotation", message=message)
        self._history.append(self._entry(pod, alert, "Unready", reason=alert, message=message))

    async def _set_gate(self, pod: Pod, *, is_open: bool, reason: str, message: str) -> bool:
        """Writes a gate, with a back-off after failures. Returns False if it was not written."""
        if not self._tries.may(pod.uid):
            return False
        try:
            written = await self._writer.set_gate(pod, self._key[0], is_open=is_open, reason=reason, message=message)
        except KubeError as error:
            self._tries.failed(pod.uid, error.retry_after)
            raise
        self._tries.done(pod.uid)
        return written

    async def _begin(self, step: BeginRestart) -> None:
        pod, intent = step.pod, step.intent
        how = _HOW[intent.method]
        what, policy = self._symptom(pod, intent.alert), self._policy
        message = (
            f"pod {pod.name} will be restarted {how}: {intent.alert} persists{what}; it is restart "
            f"{len(step.counted) + 1} of {policy.max_restarts} within {policy.window:g} s"
        )
        entry = self._entry(pod, intent.alert, intent.method, reason=intent.alert, message=message)

        def change(ledger: RemediationStatus) -> RemediationStatus | None:
            # The decision may be based on an older status. Then the next round decides again.
            if tuple(ledger.intents) != step.beside or tuple(ledger.restart_times) != step.based_on:
                return None
            begun = ledgers.begin(ledger, intent, self._policy, step.counted, step.hardware)
            return ledgers.remember(begun, [entry])

        if await self._writer.update(self._key, change) is not None:
            self._emit(pod, "Warning", intent.alert, action=intent.method, reason="RestartDecided", message=message)

    async def _execute(self, step: ExecuteRestart) -> None:
        pod, intent, namespace = step.pod, step.intent, self._key[0]
        kube = self._writer.kube
        try:
            if intent.method != "Evict":
                asked = RESTART_ENGINE_ANNOTATION if intent.method == "Engine" else RESTART_ANNOTATION
                body = {"metadata": {"uid": pod.uid, "annotations": {asked: restart_id(intent)}}}
                self._writer.store_pod(await kube.patch(PODS, pod.name, namespace, body))
            else:
                grace = HUNG_GRACE if step.hung else None
                await kube.evict(pod.name, namespace, uid=pod.uid, grace_seconds=grace)
        except (NotFoundError, ConflictError):
            pass  # the pod is gone already
        except KubeError as error:
            if self._may_pass(error, intent):
                raise  # the next round tries again
            await self._refused(step, error)
            return
        WRITES.labels("restart").inc()
        figures.count_restart(self._key)
        reason = _MADE[intent.method]
        last = intent.time + timedelta(seconds=self._policy.drain + self._policy.startup)
        self._emit(
            pod,
            "Warning",
            intent.alert,
            action=intent.method,
            reason=reason,
            message=f"pod {pod.name} is being restarted, which may take until {format_time(last)}",
        )
        moved = intent.model_copy(update={"phase": "Waiting" if intent.method == "Evict" else "Restarting"})
        await self._writer.update(self._key, lambda ledger: ledgers.progress(ledger, moved))

    def _may_pass(self, error: KubeError, intent: RestartIntent) -> bool:
        """Whether an error is no refusal: the API server is busy, or gave no answer.

        If this lasts, it is one: the restart would hold up those of all other pods.
        """
        busy = error.status == 0 or (intent.method != "Evict" and isinstance(error, TooManyRequestsError))
        age = abs((self._writer.now() - intent.time).total_seconds())
        return busy and age <= self._policy.drain + BUSY_SECONDS

    async def _refused(self, step: ExecuteRestart, error: KubeError) -> None:
        pod, intent = step.pod, step.intent
        reason, message = "RestartRefused", f"the restart of pod {pod.name} was refused: {error.message}"
        if isinstance(error, TooManyRequestsError):
            reason, message = "EvictionBlocked", f"the eviction of pod {pod.name} is blocked: {error.message}"
        entry = self._entry(pod, intent.alert, "Blocked", reason=reason, message=message)
        await self._writer.update(self._key, lambda ledger: ledgers.blocked(ledger, intent, entry, self._policy))
        self._emit(pod, "Warning", intent.alert, action=intent.method, reason=reason, message=message)

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
            self._emit(pod, kind, intent.alert, action=entry.action, reason=f"Restart{outcome}", message=text)

    def _died(self, step: Died) -> None:
        pod = step.pod
        message = f"the engine of pod {pod.name} died; the kubelet restarts its container"
        if pod.out_of_memory and pod.exit_code != EXIT_ENGINE_DIED:
            message = f"the container of pod {pod.name} was killed for lack of memory; the kubelet restarts it"
        cause = termination_message(self._pods[pod.uid]) if pod.uid in self._pods else ""
        detailed = f"{message}: {cause[-300:]}" if cause else message
        self._emit(pod, "Warning", DEAD, action="Died", reason=DEAD, message=detailed)
        # The next container may have answered already. It says nothing about the death.
        last = "" if step.last is None else step.last.excerpt
        self._history.append(self._entry(pod, DEAD, "Died", reason=DEAD, message=message, metrics=last))

    def _report(self, step: Report) -> None:
        message = step.message
        if step.reason != POSTPONED:
            message = f"{message}{self._symptom(step.pod, step.alert)}"
        if step.reason == "KeptInRotation":
            message = f"{message}.{self._next(step.pod)}"
        self._emit(step.pod, "Warning", step.alert, action="Event", reason=step.reason, message=message)

    def _would(self, step: WouldDo) -> None:
        wanted, pod = step.step, step.step.pod
        if isinstance(wanted, CloseGate):
            alert, what = wanted.alert, "Unready"
            message = f"dry run: pod {pod.name} would be taken out of rotation: {alert} is active"
        else:
            alert, what = wanted.intent.alert, wanted.intent.method
            message = f"dry run: pod {pod.name} would be restarted ({what}): {alert} persists"
        self._emit(pod, "Warning", alert, action=what, reason="DryRun", message=message)
        self._history.append(self._entry(pod, alert, what, reason="DryRun", message=message, dry_run=True))

    async def _reset(self, step: ResetBudget) -> None:
        if await self._writer.update(self._key, lambda ledger: ledgers.reset(ledger, step.value)) is not None:
            text = "the restart budget was reset by the annotation"
            if not self._policy.max_restarts:
                text = f"{text}, but remediation.restartBudget.maxRestarts is 0, which allows no restart"
            self._writer.recorder.emit(self._subject, "Normal", "RestartBudgetReset", text)

    async def _recount(self, step: Recount) -> None:
        def change(ledger: RemediationStatus) -> RemediationStatus | None:
            if tuple(ledger.restart_times) != step.based_on:
                return None
            return ledger.model_copy(update={"restarts_in_window": step.count})

        await self._writer.update(self._key, change)

    def _entry(
        self,
        pod: Pod,
        alert: str,
        action: str,
        *,
        reason: str,
        message: str,
        dry_run: bool = False,
        metrics: str | None = None,
    ) -> HistoryEntry:
        """An entry of the history. Without `metrics` it has what the pod reports now."""
        obj = self._pods.get(pod.uid)
        if metrics is None:
            evidence = self._evidence.get(pod.uid)
            metrics = "" if evidence is None else evidence.excerpt
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
            metrics=metrics,
            termination_message="" if obj is None else termination_message(obj)[-MAX_EVIDENCE:],
        )

    def _symptom(self, pod: Pod, alert: str) -> str:
        """What the pod reports about an alert, in brackets."""
        return in_brackets(symptom(self._evidence.get(pod.uid), alert))

    def _next(self, pod: Pod) -> str:
        """What is next for a pod, after a blank; empty if that is not known."""
        outlook = self._outlooks.get(pod.uid)
        return f" {outlook.text}" if outlook is not None else ""

    def _emit(self, pod: Pod, kind: EventType, alert: str, *, action: str, reason: str, message: str) -> None:
        namespace, name = self._key
        recorder = self._writer.recorder
        figures.count_step(self._key, alert, action, reason)
        logger.info(message, extra={"namespace": namespace, "service": name, "pod": pod.name, "reason": reason})
        recorder.emit(self._subject, kind, reason, message, action=action)
        recorder.emit(Subject("v1", "Pod", namespace, pod.name, pod.uid), kind, reason, message, action=action)
