"""Claude Code, set up as docs/clients-claude-code.md says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.coding_agents import CONTEXT, NAME, WHOLE, Done, run
from tests.clients.gateway import Exchange, Gateway

pytestmark = pytest.mark.timeout(420)


class ClaudeCode:
    """`claude -p` in a repository of its own."""

    def __init__(self, gateway: Gateway, repository: Path, key: str) -> None:
        self._gateway = gateway
        self._repository = repository
        self._key = key

    def __call__(self, prompt: str, *arguments: str) -> Done:
        return run(
            "claude",
            "-p",
            prompt,
            *arguments,
            folder=self._repository,
            ANTHROPIC_BASE_URL=self._gateway.url,
            ANTHROPIC_AUTH_TOKEN=self._key,
            ANTHROPIC_MODEL=NAME,
            CLAUDE_CODE_MAX_OUTPUT_TOKENS="8192",
            CLAUDE_CODE_MAX_CONTEXT_TOKENS=str(CONTEXT),
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            CLAUDE_CODE_MAX_RETRIES="1",  # it would repeat a request with a wrong key for minutes
        )


@pytest.fixture
def claude(gateway: Gateway, repository: Path, key: str) -> ClaudeCode:
    return ClaudeCode(gateway, repository, key)


def answered(done: Done, gateway: Gateway) -> list[Exchange]:
    """The requests for messages of a prompt that was answered."""
    assert done.code == 0, done
    assert done.output.strip(), done
    return gateway.answers_of("/v1/messages")


def results(exchange: Exchange) -> list[dict[str, Any]]:
    """The results of tools that a request brings."""
    contents = [message["content"] for message in exchange.body["messages"]]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return [block for block in blocks if block["type"] == "tool_result"]


def test_a_prompt_is_answered(claude: ClaudeCode, gateway: Gateway) -> None:
    (exchange,) = answered(claude("say hello"), gateway)
    assert exchange.body["stream"] is True
    assert exchange.body["tools"]


def test_a_conversation_goes_on(claude: ClaudeCode, gateway: Gateway) -> None:
    first = claude("say hello")
    second = claude("and again", "--continue")
    exchanges = answered(second, gateway)
    assert len(exchanges[-1].body["messages"]) > len(exchanges[0].body["messages"])
    assert first.output.strip() in json.dumps(exchanges[-1].body["messages"], ensure_ascii=False)


def test_a_tool_runs_and_its_result_comes_back(claude: ClaudeCode, gateway: Gateway, repository: Path) -> None:
    gateway.calls("Bash", command="echo forty-two | tee made.txt", description="Write a file")
    _, second = answered(claude("write a file", "--allowedTools", "Bash"), gateway)
    assert (repository / "made.txt").read_text() == "forty-two\n"
    assert "forty-two" in json.dumps(results(second))


def test_tools_are_found_by_search(claude: ClaudeCode, gateway: Gateway) -> None:
    """Most tools are only named until the model searches for them."""
    gateway.calls("ToolSearch", query="select:WebFetch")
    exchanges = answered(claude("search"), gateway)
    assert len(exchanges) == 2
    assert "WebFetch" in json.dumps(results(exchanges[-1]))


def test_a_subagent_asks_for_a_model_by_its_alias(claude: ClaudeCode, gateway: Gateway) -> None:
    task = {"description": "Say hello", "prompt": "say hello", "subagent_type": "general-purpose"}
    gateway.calls("Agent", **task, model="haiku", run_in_background=False)
    exchanges = answered(claude("ask somebody"), gateway)
    assert any(exchange.body["model"].startswith("claude-haiku") for exchange in exchanges)


def test_a_prompt_that_is_too_long_is_understood(claude: ClaudeCode, repository: Path) -> None:
    """Claude Code then shortens the conversation, or says so."""
    (repository / "CLAUDE.md").write_text("x " * WHOLE)
    done = claude("say hello")
    assert "too long" in done.output.lower() + done.errors.lower(), done


def test_a_wrong_key_is_named(gateway: Gateway, repository: Path) -> None:
    done = ClaudeCode(gateway, repository, "wrong")("say hello")
    assert done.code != 0
    assert "401" in done.output + done.errors, done
