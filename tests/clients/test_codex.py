"""Codex, set up as docs/clients-codex.md says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.coding_agents import CONTEXT, NAME, Done, run
from tests.clients.gateway import Exchange, Gateway

pytestmark = pytest.mark.timeout(420)

CONFIG = """\
model = "{name}"
model_provider = "qwen"
model_context_window = {context}

[model_providers.qwen]
name = "Qwen on vLLM"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "QWEN_API_KEY"
"""


class Codex:
    """`codex exec` in a repository of its own."""

    def __init__(self, gateway: Gateway, repository: Path, key: str) -> None:
        self._key = key
        self._repository = repository
        self._home = repository.with_name("codex")
        self._home.mkdir()
        (self._home / "config.toml").write_text(CONFIG.format(name=NAME, context=CONTEXT, url=gateway.url))

    def __call__(self, *arguments: str) -> Done:
        environment = {"CODEX_HOME": str(self._home), "QWEN_API_KEY": self._key}
        return run("codex", "exec", *arguments, folder=self._repository, **environment)


@pytest.fixture
def codex(gateway: Gateway, repository: Path, key: str) -> Codex:
    return Codex(gateway, repository, key)


def answered(done: Done, gateway: Gateway) -> list[Exchange]:
    done.check_answer()
    return gateway.answers_of("/v1/responses")


def outputs(exchange: Exchange) -> list[str]:
    """The outputs of tools that a request brings."""
    items = exchange.body["input"]
    return [json.dumps(item["output"]) for item in items if item["type"].endswith("_call_output")]


def test_a_prompt_is_answered(codex: Codex, gateway: Gateway) -> None:
    (exchange,) = answered(codex("say hello"), gateway)
    assert exchange.body["tools"]
    assert "response.completed" in exchange.answer


def test_a_conversation_goes_on(codex: Codex, gateway: Gateway) -> None:
    codex("say hello")
    first, second = answered(codex("resume", "--last", "and again"), gateway)
    assert len(second.body["input"]) > len(first.body["input"])


def test_a_tool_runs_and_its_output_comes_back(codex: Codex, gateway: Gateway) -> None:
    gateway.calls("exec_command", cmd="echo forty-$((40 + 2))")
    _, second = answered(codex("run it"), gateway)
    (output,) = outputs(second)
    assert "forty-42" in output


def test_a_tool_of_a_namespace_is_called(codex: Codex, gateway: Gateway) -> None:
    gateway.calls("multi_agent_v1__close_agent", target="nobody")
    _, second = answered(codex("close it"), gateway)
    (output,) = outputs(second)
    assert "unsupported call" not in output


def test_an_alias_is_a_name_of_the_model(codex: Codex, gateway: Gateway) -> None:
    (exchange,) = answered(codex("--model", "gpt-5-codex", "say hello"), gateway)
    assert exchange.body["model"] == "gpt-5-codex"


def test_a_prompt_that_is_too_long_is_understood(codex: Codex) -> None:
    done = codex("x " * CONTEXT)
    assert "context window" in done.errors, done


def test_a_wrong_key_is_named(gateway: Gateway, repository: Path) -> None:
    done = Codex(gateway, repository, "wrong")("say hello")
    assert done.code != 0
    assert "401" in done.errors, done
