"""Pods whose user is in no file of the image, as where OpenShift chooses one for each namespace."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.settings import Settings
from tests.e2e.kubectl import Kubectl
from tests.e2e.services import ask_through_service, qwen_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "news"
USER = 1000680000
# A pod that follows the recipe of docs/operations.md, after the admission of OpenShift.
CHOSEN: dict[str, Any] = {
    "$patch": "replace",
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
    "runAsUser": USER,
    "runAsGroup": 0,
    "fsGroup": USER,
}


def test_a_model_serves_as_a_user_without_a_name(kubectl: Kubectl, cluster: Settings) -> None:
    kubectl.apply(qwen_service(NAME, podTemplate={"spec": {"securityContext": CHOSEN}}))
    kubectl.wait_ready(NAME)
    [pod] = kubectl.pods(NAME)
    context = pod["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (USER, 0, USER)
    body = {"messages": [{"role": "user", "content": "中国女篮夺得亚洲杯冠军"}], "max_tokens": 8}
    answer = ask_through_service(kubectl, cluster, NAME, "/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"]
