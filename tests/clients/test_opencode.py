"""opencode, with the provider that docs/clients.md shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.coding_agents import CONTEXT, NAME, Done, run
from tests.clients.gateway import Exchange, Gateway

pytestmark = pytest.mark.timeout(420)


def config(url: str, key: str) -> dict[str, Any]:
    return {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "model": f"qwen/{NAME}",
        "provider": {
            "qwen": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": f"{url}/v1", "apiKey": key},
                "models": {NAME: {"limit": {"context": CONTEXT, "output": 8192}}},
            }
        },
    }


class OpenCode:
    """`opencode run` in a repository of its own."""

    def __init__(self, gateway: Gateway, repository: Path, key: str) -> None:
        self._repository = repository
        (repository / "opencode.json").write_text(json.dumps(config(gateway.url, key)))

    def __call__(self, prompt: str) -> Done:
        return run("opencode", "run", prompt, folder=self._repository, OPENCODE_DISABLE_MODELS_FETCH="1")


@pytest.fixture
def opencode(gateway: Gateway, repository: Path, key: str) -> OpenCode:
    return OpenCode(gateway, repository, key)


def answered(done: Done, gateway: Gateway) -> list[Exchange]:
    """The requests with tools of a prompt that was answered; others ask for its title."""
    done.check_answer()
    return [exchange for exchange in gateway.answers_of("/v1/chat/completions") if exchange.body.get("tools")]


def test_a_prompt_is_answered(opencode: OpenCode, gateway: Gateway) -> None:
    (exchange,) = answered(opencode("say hello"), gateway)
    assert exchange.body["stream_options"] == {"include_usage": True}


def test_a_tool_runs_and_its_result_comes_back(opencode: OpenCode, gateway: Gateway) -> None:
    gateway.calls("bash", command="echo forty-$((40 + 2))", description="Print a number")
    _, second = answered(opencode("run it"), gateway)
    results = [message["content"] for message in second.body["messages"] if message["role"] == "tool"]
    assert "forty-42" in json.dumps(results)


def test_a_wrong_key_is_named(gateway: Gateway, repository: Path) -> None:
    done = OpenCode(gateway, repository, "wrong")("say hello")
    assert "API key" in done.output + done.errors, done
