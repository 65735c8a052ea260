"""Children that others change, delete or refuse: what is repaired and reported, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from qwen_operator.api import QwenService, format_time
from qwen_operator.api.objects import Key
from qwen_operator.children import Children
from qwen_operator.kube.errors import ForbiddenError, InvalidError, KubeError
from qwen_operator.kube.pacing import CHANGED_SECONDS, FREE_REPAIRS, REPAIR_MAX, Pacing, repair_pause
from qwen_operator.kube.resources import Resource
from qwen_operator.planning.plan import Reference
from qwen_operator.status.conditions import ApplyError
from tests.unit.qwen_operator.objects import NOW, Object, planned, pod, service
from tests.unit.qwen_operator.test_children import KEY, Cluster
from tests.unit.qwen_operator.test_ownership import applied, ours

SCALED = {"manager": "kubectl-scale", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}


class Recorded(Cluster):
    """A cluster whose API server records who set each field. Time passes only if a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.again: list[float] = []
        self.reported: list[tuple[str, str]] = []
        self.patched: list[str] = []
        self.members: list[Object] = []
        self.stuck = False
        self.pod_informer = SimpleNamespace(store=lambda _: None)
        fake: Any = self
        self.children = Children(
            fake,
            fake,
            lambda _, seconds: self.again.append(seconds),
            report=lambda _, reason, message: self.reported.append((reason, message)),
            now=self.now,
            clock=lambda: self.seconds,
        )

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    async def apply(self, obj: Object, **options: Any) -> Object:
        await super().apply(obj, **options)
        live = self.objects[(obj["kind"], obj["metadata"]["name"])] = applied(obj)
        live["metadata"]["uid"] = f"uid-{obj['kind']}"
        return live

    async def patch(self, _: Resource, name: str, __: str, body: Object) -> Object:
        self.patched.append(name)
        return body

    async def delete(self, resource: Resource, name: str, _: str, *, uid: str) -> None:
        self.calls.append(("delete", resource.kind))
        if self.stuck:
            raise KubeError(500, "a webhook says no")
        found = self.objects.pop((resource.kind, name))
        assert found["metadata"]["uid"] == uid

    def pods(self, _: Key) -> list[Object]:
        return self.members

    def meddle(self) -> None:
        """Somebody scales the Deployment."""
        live = self.objects[("Deployment", "news")]
        ours(live)["f:spec"].pop("f:replicas", None)
        live["metadata"]["managedFields"] = [*live["metadata"]["managedFields"][:2], SCALED]

    async def round(self, subject: QwenService | None = None, seconds: float = 0.0) -> Sequence[ApplyError]:
        """One pass, after some seconds."""
        self.seconds += seconds
        subject = subject or service()
        todo = planned(subject)
        errors, _ = await self.children.apply(KEY, subject, todo.children)
        return errors

    def writes(self, kind: str = "Deployment") -> int:
        return self.kinds().count(kind)


async def test_a_change_by_somebody_else_is_set_back_at_once_and_reported_with_field_and_manager() -> None:
    cluster = Recorded()
    assert await cluster.round() == []
    cluster.meddle()
    assert await cluster.round(seconds=1) == []
    assert await cluster.round(seconds=1) == []
    assert cluster.writes() == 2
    text = "Deployment news was changed and was set back: spec.replicas (changed by kubectl-scale)."
    assert cluster.reported == [("DriftRepaired", text)]


async def test_somebody_who_changes_a_child_every_second_is_answered_less_and_less_often() -> None:
    cluster = Recorded()
    await cluster.round()
    errors: Sequence[ApplyError] = ()
    for _ in range(27):
        cluster.meddle()
        errors = await cluster.round(seconds=1)
    assert cluster.writes() - 1 == FREE_REPAIRS + 2
    [error] = errors
    assert (error.reason, error.kind) == ("Contested", "Deployment")
    assert "spec.replicas (changed by kubectl-scale)" in error.message
    assert "Find out who changes it (kubectl-scale)" in error.message
    assert format_time(NOW + timedelta(seconds=3 + 5 + 10 + 20)) in error.message
    assert len(set(cluster.reported)) == 1, "the Events are no series"
    assert cluster.writes("Service") == 1, "others were written, too"


async def test_a_fight_is_reported_until_the_child_is_left_alone_for_a_while() -> None:
    cluster = Recorded()
    await cluster.round()
    for _ in range(FREE_REPAIRS):
        cluster.meddle()
        errors = await cluster.round(seconds=1)
    assert [error.reason for error in errors] == ["Contested"]
    assert [error.reason for error in await cluster.round(seconds=30)] == ["Contested"]
    assert cluster.again[-1] == 30.0
    assert await cluster.round(seconds=31) == []
    cluster.meddle()
    assert await cluster.round(seconds=1) == []
    assert cluster.writes() == 1 + FREE_REPAIRS + 1


async def test_what_the_user_wants_is_written_soon_also_during_a_fight() -> None:
    cluster = Recorded()
    await cluster.round()
    for _ in range(60):
        cluster.meddle()
        await cluster.round(seconds=1)
    before = cluster.writes()
    wanted = service(replicas=4)
    cluster.meddle()
    for _ in range(int(CHANGED_SECONDS)):
        await cluster.round(wanted, seconds=1)
    assert cluster.writes() == before + 1
    assert cluster.objects[("Deployment", "news")]["spec"]["replicas"] == 4


async def test_a_change_of_the_spec_is_no_drift() -> None:
    cluster = Recorded()
    await cluster.round()
    for replicas in range(2, 9):
        assert await cluster.round(service(replicas=replicas), seconds=1) == []
    assert await cluster.round(seconds=1) == []
    assert cluster.reported == []


async def test_a_child_that_somebody_deletes_is_created_again_and_reported() -> None:
    cluster = Recorded()
    await cluster.round()
    del cluster.objects[("Service", "news")]
    assert await cluster.round(seconds=2) == []
    assert ("Service", "news") in cluster.objects
    assert cluster.reported == [("DriftRepaired", "Service news was deleted and was created again.")]


async def test_a_restarted_operator_knows_drift_from_a_new_version() -> None:
    cluster = Recorded()
    await cluster.round()
    cluster.children.forget(KEY)
    cluster.meddle()
    await cluster.round(seconds=1)
    assert [reason for reason, _ in cluster.reported] == ["DriftRepaired"]
    cluster.children.forget(KEY)
    await cluster.round(service(replicas=2), seconds=1)
    assert len(cluster.reported) == 1


BAD = service(metadata={"labels": {"team": "bad"}}, networkPolicy={"enabled": True})


async def test_a_refused_child_is_not_written_with_every_pass_and_stays_reported() -> None:
    cluster = Recorded()
    cluster.refused["NetworkPolicy"] = ForbiddenError(403, "a policy says no")
    for _ in range(50):
        errors = await cluster.round(BAD, seconds=0.1)
        assert [(error.reason, error.kind) for error in errors] == [("ApplyFailed", "NetworkPolicy")]
    assert cluster.writes("NetworkPolicy") == 3
    assert cluster.writes("Service") == 1
    del cluster.refused["NetworkPolicy"]
    assert await cluster.round(BAD, seconds=4) == []


async def test_a_corrected_spec_is_tried_soon_however_long_the_back_off_is() -> None:
    cluster = Recorded()
    cluster.refused["NetworkPolicy"] = ForbiddenError(403, "a policy says no")
    for _ in range(300):
        await cluster.round(BAD, seconds=1)
    good = service(networkPolicy={"enabled": True})
    for _ in range(int(CHANGED_SECONDS)):
        errors = await cluster.round(good, seconds=1)
    assert errors == []


async def test_a_spec_that_is_rewritten_every_second_is_not_tried_every_second() -> None:
    cluster = Recorded()
    cluster.refused["Deployment"] = InvalidError(422, "spec.template.spec: bad")
    for number in range(60):
        template = {"spec": {"schedulerName": f"bad-{number}"}}
        errors = await cluster.round(service(podTemplate=template), seconds=1)
        assert [error.reason for error in errors] == ["InvalidPodTemplate"]
    assert cluster.writes() <= 60 / CHANGED_SECONDS + 4


async def test_what_cannot_be_removed_is_reported_and_tried_again_with_back_off() -> None:
    cluster = Recorded()
    await cluster.round(service(networkPolicy={"enabled": True}))
    cluster.stuck = True
    reference = Reference("networking.k8s.io/v1", "NetworkPolicy", "news")
    failures: list[KubeError | None] = []
    for _ in range(50):
        cluster.seconds += 0.1
        errors, failure = await cluster.children.remove(KEY, service(), [reference])
        failures.append(failure)
        assert [error.message for error in errors] == ["NetworkPolicy news cannot be removed: a webhook says no"]
    assert cluster.kinds("delete").count("NetworkPolicy") == 3
    assert sum(failure is not None for failure in failures) == 3
    cluster.stuck, cluster.seconds = False, cluster.seconds + 10
    assert await cluster.children.remove(KEY, service(), [reference]) == ([], None)
    assert ("NetworkPolicy", "news") not in cluster.objects


async def test_a_thousand_failed_pods_cost_no_writes() -> None:
    cluster = Recorded()
    cluster.members = [pod("news-1"), *(pod(f"failed-{number}", phase="Failed") for number in range(1000))]
    await cluster.round()
    assert cluster.patched == ["news-1"]


def test_the_pause_between_repairs_has_a_bound() -> None:
    assert [repair_pause(repairs) for repairs in range(1, 6)] == [0.0, 0.0, 5.0, 10.0, 20.0]
    assert repair_pause(10_000) == REPAIR_MAX


def test_other_children_and_other_services_have_paces_of_their_own() -> None:
    pacing: Pacing[str] = Pacing("", lambda: 0.0)
    assert pacing.failed(("Service", "a"), "w", "no") == 1.0
    assert pacing.left(("Service", "a"), "w") == 1.0
    assert pacing.note(("Service", "a")) == "no"
    assert pacing.left(("Service", "b"), "w") == 0.0
    pacing.forget(("Service", "a"))
    assert pacing.left(("Service", "a"), "w") == 0.0
