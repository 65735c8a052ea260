"""The demo's path: the sample is applied, real vLLM serves a model, and the Service answers."""

from __future__ import annotations

import pytest

from tests.cluster.demo import SAMPLE, SERVICE, Client, ask, said
from tests.e2e.kubectl import Kubectl

pytestmark = pytest.mark.cluster


@pytest.mark.timeout(900)
def test_sample_is_served_and_answers_the_two_requests_of_the_specification(kubectl: Kubectl, client: Client) -> None:
    kubectl.run("apply", "-f", str(SAMPLE))
    kubectl.wait_ready(SERVICE, timeout=600)

    chat, completion = ask(client, kubectl.namespace)

    assert chat["object"] == "chat.completion"
    assert "【财经】" in said(chat["choices"][0])
    assert completion["object"] == "text_completion"
    assert said(completion["choices"][0]).strip() == "科技"
    for answer in (chat, completion):
        assert answer["model"] == "qwen-news-classifier"
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    tested = client.helm("test", "qwen-operator", "--namespace", "qwen-system", "--logs", timeout=180)
    assert f"{kubectl.namespace}/{SERVICE} answers: " in tested

    pods = kubectl.pods(SERVICE)
    assert kubectl.endpoints(SERVICE) == {pods[0]["status"]["podIP"]}
    assert kubectl.get("servicemonitor", SERVICE)["spec"]["endpoints"][0]["port"] == "http"
    kubectl.run("delete", "qwenservice", SERVICE, "--timeout=60s")
    kubectl.run("wait", "--for=delete", f"deployment/{SERVICE}", f"service/{SERVICE}", "--timeout=60s")
