"""What `podTemplate` may set where the operator narrows it, and what happens if it sets more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwen_operator.api.metadata import PodTemplate
from qwen_operator.controller import Controller
from qwen_operator.kube.client import KubeClient
from qwen_operator.planning.pod_template_rules import forbidden_fields, refusal
from qwen_operator.process.health import Health
from qwen_operator.process.settings import read_settings
from tests.unit.qwen_operator.kube_server import Server, until
from tests.unit.qwen_operator.objects import Object, child, live, planned, pod_spec, service, service_object
from tests.unit.qwen_operator.test_requests import Api

RESOURCES = {"spec": {"containers": [{"name": "server", "resources": {"limits": {"cpu": 2}}}]}}
SECRET = {"spec": {"volumes": [{"name": "s", "secret": {"secretName": "everything"}}]}}
NARROW = ("metadata.labels", "spec.tolerations", "spec.containers.resources")


def forbidden(template: Object, *allowed: str) -> list[str]:
    return forbidden_fields(PodTemplate.model_validate(template), allowed)


@pytest.mark.parametrize(
    "template",
    [
        {},
        {"metadata": {}, "spec": {}},
        {"metadata": {"labels": {"team.example.com/name": "news"}}},
        {"spec": {"tolerations": [{"key": "a"}]}},
        RESOURCES,
        {"spec": {"containers": [{"name": "server"}]}},
    ],
    ids=str,
)
def test_what_is_allowed_is_accepted(template: Object) -> None:
    assert forbidden(template, *NARROW) == []


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (SECRET, ["spec.volumes"]),
        ({"metadata": {"annotations": {"a": "b"}}}, ["metadata.annotations"]),
        ({"spec": {"hostNetwork": True, "hostPID": True}}, ["spec.hostNetwork", "spec.hostPID"]),
        ({"spec": {"containers": [{"name": "server", "image": "mine"}]}}, ["spec.containers.image"]),
        ({"spec": {"containers": [{"name": "a", "tty": True}, {"name": "b", "tty": True}]}}, ["spec.containers.tty"]),
        ({"spec": {"containers": [{"name": "server", "$patch": "delete"}]}}, ["spec.containers.$patch"]),
        ({"spec": {"containers": None}}, ["spec.containers"]),
        ({"spec": {"securityContext": {"$patch": "replace"}}}, ["spec.securityContext"]),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_named(template: Object, named: list[str]) -> None:
    assert forbidden(template, *NARROW) == named


def test_everything_or_nothing_can_be_allowed() -> None:
    assert forbidden({**SECRET, "metadata": {"labels": {"a": "b"}}}, "*") == []
    assert forbidden({**SECRET, "metadata": {"labels": {"a": "b"}}}) == ["metadata", "spec"]
    assert forbidden(SECRET, "spec") == []


def test_the_refusal_says_what_is_refused_what_may_be_set_and_who_decides() -> None:
    text = refusal(service(podTemplate=SECRET).spec.pod_template, NARROW)
    assert text is not None
    assert "podTemplate.spec.volumes" in text
    assert "metadata.labels, spec.containers.resources, spec.tolerations" in text
    assert "podTemplate.allow" in text
    nothing = refusal(service(podTemplate=SECRET).spec.pod_template, ())
    assert nothing is not None
    assert "may set: nothing" in nothing
    assert refusal(service(podTemplate=RESOURCES).spec.pod_template, NARROW) is None


def test_a_refused_template_makes_no_deployment() -> None:
    found = planned(service(podTemplate=SECRET), pod_template_allow=NARROW)
    assert "Deployment" not in {obj["kind"] for obj in found.children}
    assert "podTemplate.spec.volumes" in found.refused


def test_a_refused_template_keeps_the_one_that_was_applied_and_lets_the_rest_change() -> None:
    before = child(service(), "Deployment")
    changed = service(podTemplate=SECRET, replicas=3, networkPolicy={"enabled": True})
    after = planned(changed, pod_template_allow=NARROW, live_deployment=live(before))
    deployments = [obj for obj in after.children if obj["kind"] == "Deployment"]
    assert [obj["spec"]["template"] for obj in deployments] == [before["spec"]["template"]]
    assert [obj["spec"]["replicas"] for obj in deployments] == [3]
    assert "NetworkPolicy" in {obj["kind"] for obj in after.children}


def test_an_allowed_template_is_not_refused() -> None:
    found = planned(service(podTemplate=RESOURCES), pod_template_allow=NARROW)
    assert found.refused == ""
    assert "Deployment" in {obj["kind"] for obj in found.children}


async def test_the_status_says_that_the_template_is_not_allowed(server: Server, kube: KubeClient) -> None:
    settings = read_settings(
        ["--server-image-cpu=a", "--server-image-cuda=b", "--metrics-port=0", "--pod-template-allow=none"], {}
    )
    server.answer = api = Api()
    task = asyncio.create_task(Controller(kube, settings, Health()).run())
    await until(lambda: api.watches)
    api.put(service_object(podTemplate=SECRET, replicas=1))
    await until(lambda: api.items[("default", "news")]["status"].get("conditions"))
    task.cancel()
    await asyncio.wait((task,))
    conditions: list[Any] = api.items[("default", "news")]["status"]["conditions"]
    found = {item["type"]: item["reason"] for item in conditions}
    assert found["Ready"] == found["Progressing"] == "PodTemplateNotAllowed"
    assert not [path for method, path, *_ in server.asked if method == "PATCH" and path.endswith("/deployments/news")]


def secrets(subject: Any, **changes: Any) -> Any:
    return child(subject, "Deployment", **changes)["spec"]["template"]["spec"].get("imagePullSecrets")


def test_pull_secrets_of_the_chart_are_for_services_that_name_none() -> None:
    assert secrets(service(), pull_secrets=("one", "two")) == [{"name": "one"}, {"name": "two"}]
    own = service(engine={"imagePullSecrets": [{"name": "own"}]})
    assert secrets(own, pull_secrets=("one",)) == [{"name": "own"}]
    assert "imagePullSecrets" not in pod_spec(service())
