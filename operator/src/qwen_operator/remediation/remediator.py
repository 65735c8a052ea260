"""The loops of remediation: for each service, poll its pods, decide, and perform the steps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from qwen_operator.api import InvalidSpecError, QwenService, QwenServiceSpec, RemediationStatus
from qwen_operator.api.names import RESET_BUDGET_ANNOTATION, child_name
from qwen_operator.api.objects import Key, Object
from qwen_operator.api.qwenservice import parse_status, remediation_spec
from qwen_operator.kube.client import KubeClient
from qwen_operator.planning.plan_warnings import PlanWarning
from qwen_operator.process.health import Health
from qwen_operator.remediation import figures, saturation
from qwen_operator.remediation.act import ServiceActor
from qwen_operator.remediation.copies import replace
from qwen_operator.remediation.decide import decide
from qwen_operator.remediation.engines import engine_reports, may_matter
from qwen_operator.remediation.failing import FailingRounds
from qwen_operator.remediation.gate_tries import GateTries
from qwen_operator.remediation.memory import Memory, died_since, next_poll
from qwen_operator.remediation.nodes import Nodes
from qwen_operator.remediation.outlook import Outlook, delays, look_ahead, state_after, texts
from qwen_operator.remediation.policy import Policy, policy_of
from qwen_operator.remediation.poll import Poller
from qwen_operator.remediation.readings import Readings
from qwen_operator.remediation.revisions import newest_hash
from qwen_operator.remediation.steps import Decisions, Prove, Report
from qwen_operator.remediation.values import Evidence, Gate, Instant, Pod, Round
from qwen_operator.remediation.views import pod_ip, pod_view, rollout_view
from qwen_operator.remediation.writes import Writer
from qwen_operator.status.adapters import AdapterReport
from qwen_operator.status.conditions import Suspension
from qwen_operator.status.diagnosis import EXIT_ENGINE_DIED, EngineReport, is_active

logger = logging.getLogger(__name__)


_BEAT_SECONDS: Final = 120.0
"""Seconds that a part of a round may take: seven calls of the API make a restart at most."""
_AT_LEAST: Final = 0.1
"""Seconds between two rounds of a service, also if one is to follow at once."""
_FIRST_SECONDS: Final = 2.0
"""Seconds within which the first rounds of all services begin, evenly spread."""
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


class ServiceCache(Protocol):
    """What remediation reads from the cache of the cluster."""

    def service(self, key: Key) -> Object | None: ...
    def pods(self, key: Key) -> Sequence[Object]: ...
    def deployment(self, key: Key) -> Object | None: ...


class _Known(NamedTuple):
    """What the spec of a service says about remediation, and for which state of the object."""

    state: tuple[Any, ...]
    policy: Policy | None
    desired: int = 0


class Remediator:
    """The loops of all services.

    `on_change` is called when the suspension, the outlook or the warnings of a service change.
    """

    def __init__(
        self,
        kube: KubeClient,
        cluster: ServiceCache,
        poller: Poller,
        writer: Writer,
        *,
        health: Health,
        on_change: Callable[[Key], None],
    ) -> None:
        self._kube = kube
        self._cluster = cluster
        self._poller = poller
        self._writer = writer
        self._health = health
        self._on_change = on_change
        self._loops: dict[Key, asyncio.Task[None]] = {}
        self._memories: dict[Key, Memory] = {}
        self._known: dict[Key, _Known] = {}
        self._started = 0
        self._suspended: dict[Key, Suspension] = {}
        self._outlooks: dict[Key, dict[str, Outlook]] = {}
        self._engines: dict[Key, dict[str, EngineReport]] = {}
        self._reports: dict[Key, dict[str, Mapping[str, AdapterReport] | None]] = {}
        self._proofs: dict[Key, dict[str, bool]] = {}
        self._wake: dict[Key, asyncio.Event] = {}
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._nodes = Nodes(kube)
        self._failing = FailingRounds()
        self._readings = Readings()
        self._gates: dict[Key, GateTries] = defaultdict(GateTries)

    def suspended(self, key: Key) -> Suspension | None:
        """Why remediation of a service is suspended; None while it is active.

        Until the first decision, such as after a failover, it is what the status says.
        """
        if (failing := self._failing.of(key)) is not None:
            return failing
        if key in self._suspended or key in self._memories:
            return self._suspended.get(key)
        return _suspended_before(self._cluster.service(key))

    def warnings(self, key: Key) -> Sequence[PlanWarning]:
        """What people should know of a service's load.

        Until the first decision, it is what the status says, as in `suspended`.
        """
        memory = self._memories.get(key)
        known = self._cluster.service(key)
        saturated = _saturated_before(known) if memory is None else memory.saturated_at is not None
        return (saturation.WARNING,) if saturated else ()

    def outlook(self, key: Key) -> Mapping[str, str]:
        """What is next for each pod of a service that is out of rotation, by its UID."""
        return texts(self._outlooks.get(key, {}))

    def engines(self, key: Key) -> Mapping[str, EngineReport]:
        """What the pods of a service say of their engines, by UID, where the status needs it."""
        return self._engines.get(key, {})

    def adapters(self, key: Key) -> Mapping[str, Mapping[str, AdapterReport] | None]:
        """What the pods of a service said last about their LoRA adapters, by their UIDs."""
        return self._reports.get(key, {})

    def sync(self, key: Key) -> None:
        """Starts the loop of a new service, or stops that of a deleted one."""
        exists = self._cluster.service(key) is not None
        running = self._loops.get(key)
        if exists and (running is None or running.done()):
            # Multiples of the golden ratio spread any number of loops: no burst of polls.
            delay = _FIRST_SECONDS * (self._started * _GOLDEN % 1)
            self._started += 1
            self._loops[key] = asyncio.create_task(self._loop(key, delay), name=f"remediation {key[0]}/{key[1]}")
        elif not exists and running is not None:
            running.cancel()
            del self._loops[key]
            self._memories.pop(key, None)
            self._known.pop(key, None)
            self._suspended.pop(key, None)
            self._outlooks.pop(key, None)
            self._engines.pop(key, None)
            self._reports.pop(key, None)
            self._proofs.pop(key, None)
            self._wake.pop(key, None)
            self._gates.pop(key, None)
            self._readings.forget(key)
            self._failing.forget(key)
            self._health.forget(f"remediation of {key[0]}/{key[1]}")
            figures.forget(key)

    async def stop(self) -> None:
        """Stops all loops."""
        tasks = [*self._loops.values(), *self._asked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _loop(self, key: Key, delay: float) -> None:
        wake = self._wake[key] = asyncio.Event()
        await asyncio.sleep(delay)
        while True:
            started = time.monotonic()
            part = f"remediation of {key[0]}/{key[1]}"
            self._health.beat(part, _BEAT_SECONDS)
            pause = 2.0
            try:
                pause = await self.tick(key)
            except Exception as error:  # the next round tries again
                logger.exception("remediation failed", extra={"namespace": key[0], "service": key[1]})
                news = self._failing.failed(key, error)
            else:
                news = self._failing.succeeded(key)
            if news:
                figures.show_suspension(key, suspended=self.suspended(key) is not None)
                self._on_change(key)
            # pollInterval may be longer than a round may take
            self._health.beat(part, pause + _BEAT_SECONDS)
            await asyncio.sleep(_AT_LEAST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause - (time.monotonic() - started))):
                    await wake.wait()
            wake.clear()

    async def tick(self, key: Key) -> float:
        """One round for a service. Returns the seconds from its beginning until the next one."""
        service = self._cluster.service(key)
        if service is None or "deletionTimestamp" in service["metadata"]:
            return 2.0
        known = self._policy(key, service)
        if known.policy is None:
            return 2.0  # unknown: gates stay as they are and a restart waits
        policy, desired = known.policy, known.desired
        if policy.poll < self._poller.shortest:
            policy = replace(policy, poll=self._poller.shortest)
        before = self._cluster.pods(key)
        asked = [pod for pod in before if pod_ip(pod) and is_active(pod)]
        name = child_name(key[1])
        answers = await asyncio.gather(*(self._poller.metrics(pod_ip(pod), key[0], name) for pod in asked))
        by_pod = {pod["metadata"]["uid"]: answer for pod, answer in zip(asked, answers, strict=True)}
        evidence = {uid: answer.evidence for uid, answer in by_pod.items()}
        self._take_reports(key, evidence, [pod for pod in self._readings.pods(key, before) if pod.uid in by_pod])
        pods = self._cluster.pods(key)
        seen = await self._round(key, pods, evidence, policy, desired)
        if garbled := frozenset(uid for uid, answer in by_pod.items() if answer.garbled):
            seen = replace(seen, garbled=garbled)
        service = self._cluster.service(key)
        if service is None:
            return policy.poll
        ledger, waits = self._readings.ledger(key, service)
        if self._waits(key, waits):
            return policy.poll
        decisions = self.judge(key, seen, policy, ledger)
        outlooks, late = self._look_ahead(key, seen, policy, ledger, decisions)
        by_uid = {pod["metadata"]["uid"]: pod for pod in pods}
        self._ask(key, decisions, by_uid)
        tries = self._gates[key]
        tries.keep(by_uid)
        if steps := (*decisions.steps, *late):
            actor = ServiceActor(
                self._writer,
                service,
                by_uid,
                evidence,
                policy,
                beat=lambda: self._beat(key),
                outlooks=outlooks,
                tries=tries,
            )
            await actor.carry_out(steps)
        if decisions.go_on:
            self.hurry(key)
        return next_poll(decisions.memory, policy)

    def _take_reports(self, key: Key, evidence: Mapping[str, Evidence | None], asked: Sequence[Pod]) -> None:
        """Keeps what the pods say about their adapters.

        A pod that is silent for a while keeps them as long as its containers are ready.
        """
        before = self._reports.get(key, {})
        kept = {pod.uid: before.get(pod.uid) if pod.running else None for pod in asked}
        reports = {uid: kept.get(uid) if seen is None else seen.adapters for uid, seen in evidence.items()}
        self._reports[key] = reports
        if reports != before and any((*reports.values(), *before.values())):
            self._on_change(key)

    def _policy(self, key: Key, service: Object) -> _Known:
        """The policy of a service. Its spec is parsed only after a change.

        One that cannot be read leaves the last one in force.
        """
        known, state = self._known.get(key), _state(service)
        if known is None or known.state != state:
            found = _read_policy(service)
            if found is not None:
                known = _Known(state, *found)
            else:
                known = known._replace(state=state) if known is not None else _Known(state, None)
            self._known[key] = known
            if known.policy is not None:
                figures.prepare(key, known.policy)
        return known

    def judge(self, key: Key, seen: Round, policy: Policy, ledger: RemediationStatus) -> Decisions:
        """Decides about one round and keeps the memory for the next."""
        now = Instant(time.monotonic(), datetime.now(UTC))
        memory = self._memories.get(key)
        if memory is None:
            known = self._cluster.service(key)
            before = _suspended_before(known)
            memory = Memory(
                suspended=None if before is None else (before, now.mono),
                saturated_at=now.mono if _saturated_before(known) else None,
            )
            figures.prepare(key, policy)
        decisions = decide(seen, policy, ledger, memory, now)
        self._memories[key] = decisions.memory
        pods = decisions.memory.pods if policy.mode == "Enforce" else {}
        out = {uid for uid, pod in pods.items() if pod.latch is not None and not pod.latch.held_back}
        figures.show(
            key,
            out=len(out),
            restarting=len(out & {intent.pod_uid for intent in ledger.intents}),
            suspended=decisions.suspended is not None or self._failing.of(key) is not None,
            died=_died(memory, decisions.memory),
        )
        if decisions.suspended != self._suspended.get(key):
            if decisions.suspended is None:
                del self._suspended[key]
            else:
                self._suspended[key] = decisions.suspended
            self._on_change(key)
        if (decisions.memory.saturated_at is None) is not (memory.saturated_at is None):
            self._on_change(key)
        return decisions

    def _look_ahead(
        self, key: Key, seen: Round, policy: Policy, ledger: RemediationStatus, decisions: Decisions
    ) -> tuple[dict[str, Outlook], list[Report]]:
        """What is next for the pods, and the reports of restarts that began to wait."""
        before = self._outlooks.get(key, {})
        now = Instant(time.monotonic(), datetime.now(UTC))
        outlooks = self._outlooks[key] = look_ahead(seen, policy, ledger, decisions, now)
        said = self._engines.get(key, {})
        engines: dict[str, EngineReport] = {}
        if may_matter(decisions.memory):
            engines = engine_reports(state_after(seen, policy, ledger, decisions, now), decisions.memory)
        self._engines[key] = engines
        if outlooks != before or engines != said:
            self._on_change(key)
        return outlooks, delays(seen, decisions, before, outlooks)

    def _waits(self, key: Key, suspended: Suspension | None) -> bool:
        """Whether nothing can be done, as the status cannot be read."""
        if suspended is not None:
            self._outlooks.pop(key, None)
            self._engines.pop(key, None)
        if suspended is not None and suspended != self._suspended.get(key):
            self._suspended[key] = suspended
            figures.show_suspension(key, suspended=True)
            self._on_change(key)
        return suspended is not None

    async def _round(
        self, key: Key, pods: Sequence[Object], evidence: Mapping[str, Evidence | None], policy: Policy, desired: int
    ) -> Round:
        unhealthy = {
            uid
            for uid, answer in evidence.items()
            if answer is not None and any(policy.takes_out(alert) for alert in answer.alerts)
        }
        rollout = rollout_view(self._cluster.deployment(key))
        newest = None
        if unhealthy and (rollout.under_way or rollout.stalled):
            newest = await newest_hash(self._kube, key, self._cluster.deployment(key))
        if newest is None:
            views = self._readings.pods(key, pods)
        else:
            views = [pod_view(pod, newest_hash=newest) for pod in pods]
        suspects = [view for view in views if view.uid in unhealthy or _may_be_restarted(view)]
        lost = await self._nodes.not_ready(view.node for view in suspects)
        views = [replace(view, node_ready=False) if view.node in lost else view for view in views]
        known = {pod["metadata"]["uid"] for pod in pods}
        proofs = {uid: well for uid, well in self._proofs.pop(key, {}).items() if uid in known}
        annotations = (self._cluster.service(key) or {"metadata": {}})["metadata"].get("annotations") or {}
        return Round(
            pods=tuple(views),
            evidence=evidence,
            desired=desired,
            proofs=proofs,
            rollout=rollout,
            reset=annotations.get(RESET_BUDGET_ANNOTATION, "")[:1024],
        )

    def pod_seen(self, key: Key, pod: Object) -> None:
        """Lets the next round begin at once if a pod that is out of rotation runs again."""
        memory = self._memories.get(key)
        known = None if memory is None else memory.pods.get(pod["metadata"]["uid"])
        if known is not None and known.latch is not None and not known.running and pod_view(pod).running:
            self.hurry(key)

    def hurry(self, key: Key) -> None:
        """Lets the next round of a service begin at once: every second of an outage counts."""
        if key in self._wake:
            self._wake[key].set()

    def _beat(self, key: Key) -> None:
        """Reports that a round of a service makes progress, however slow the API server is."""
        self._health.beat(f"remediation of {key[0]}/{key[1]}", _BEAT_SECONDS)

    def _ask(self, key: Key, decisions: Decisions, pods: Mapping[str, Object]) -> None:
        for step in decisions.steps:
            # One that waits for its turn counts as lost after a while, but is still in progress.
            if isinstance(step, Prove) and step.pod.uid in pods and step.pod.uid not in self._asked:
                uid = step.pod.uid
                self._asked[uid] = asyncio.create_task(self._prove(key, uid, pod_ip(pods[uid])))

    async def _prove(self, key: Key, uid: str, ip: str) -> None:
        try:
            well = await self._poller.generate(ip, key[0])
        finally:
            del self._asked[uid]
        if self._cluster.service(key) is not None:  # else nobody takes the result
            self._proofs.setdefault(key, {})[uid] = well
        if well:  # after a failure the next one waits for the next round
            self.hurry(key)


def _died(before: Memory, after: Memory) -> int:
    """How many engines died in a round."""
    known = before.pods
    return sum(died_since(known[uid], pod) for uid, pod in after.pods.items() if uid in known)


def _state(service: Object) -> tuple[Any, ...]:
    """What a policy depends on: the spec, and the number of pods if the spec leaves it out."""
    metadata, written = service["metadata"], service.get("spec") or {}
    pods = None if "replicas" in written else (service.get("status") or {}).get("replicas")
    return metadata["uid"], metadata["generation"], pods


def _read_policy(service: Object) -> tuple[Policy, int] | None:
    """The policy and the number of replicas; None if the spec does not say them.

    An invalid field elsewhere in the spec changes nothing for the pods that run.
    """
    try:
        spec: QwenServiceSpec | None = QwenService.parse(service).spec
    except InvalidSpecError:
        spec = remediation_spec(service)
    return None if spec is None else (policy_of(spec), spec.replicas)


def _may_be_restarted(pod: Pod) -> bool:
    """Whether a pod may be restarted that has no alert in this round: out, or its engine died."""
    return pod.gate is Gate.CLOSED or (not pod.running and pod.exit_code == EXIT_ENGINE_DIED)


def _suspended_before(service: Object | None) -> Suspension | None:
    """Why remediation is suspended by what the status says, perhaps of an earlier process."""
    condition = None if service is None else parse_status(service).condition("RemediationSuspended")
    return None if condition is None or condition.status != "True" else Suspension(condition.reason, condition.message)


def _saturated_before(service: Object | None) -> bool:
    """Whether the status says that the service is saturated."""
    return service is not None and saturation.is_reported(parse_status(service))
