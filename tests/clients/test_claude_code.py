"""Claude Code, set up as docs/clients-claude-code.md says."""

from __future__ import annotations

import json
from pathlib import Path

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
    done.check_answer()
    return gateway.answers_of("/v1/messages")


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


def test_a_prompt_that_is_too_long_is_understood(claude: ClaudeCode, repository: Path) -> None:
    """Claude Code then shortens the conversation, or says so."""
    (repository / "CLAUDE.md").write_text("x " * WHOLE)
    done = claude("say hello")
    assert "too long" in done.output.lower() + done.errors.lower(), done


def test_a_wrong_key_is_named(gateway: Gateway, repository: Path) -> None:
    done = ClaudeCode(gateway, repository, "wrong")("say hello")
    assert done.code != 0
    assert "401" in done.output + done.errors, done
