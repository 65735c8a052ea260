"""The openai and anthropic packages: keys, rate limits and a full queue on a real server.

`make test` runs what else they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.clients.overload import refusal_of, spend, through_a_full_queue
from tests.clients.questions import ANSWER, NAME, QUESTION
from tests.integration.server_process import ServerProcess

Ask = Callable[[str, int], str]


def ask_openai(server: ServerProcess) -> Ask:
    def ask(key: str, retries: int) -> str:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries, timeout=90) as client:
            chat = client.chat.completions.create(
                model=NAME, messages=[{"role": "user", "content": QUESTION}], temperature=0
            )
        return chat.choices[0].message.content or ""

    return ask


def ask_responses(server: ServerProcess) -> Ask:
    def ask(key: str, retries: int) -> str:
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries, timeout=90) as client,
            client.responses.stream(model=NAME, input=QUESTION, temperature=0) as stream,
        ):
            return stream.get_final_response().output_text

    return ask


def ask_anthropic(server: ServerProcess) -> Ask:
    def ask(key: str, retries: int) -> str:
        with (
            anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=retries, timeout=90) as client,
            client.messages.stream(
                model=NAME,
                max_tokens=100,
                messages=[{"role": "user", "content": QUESTION}],
                extra_body={"temperature": 0},
            ) as stream,
        ):
            return stream.get_final_text()

    return ask


@pytest.fixture(params=["chat", "responses", "messages"])
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(api: str, server: ServerProcess) -> Ask:
    return {"chat": ask_openai, "responses": ask_responses, "messages": ask_anthropic}[api](server)


def test_a_wrong_key_is_an_authentication_error(ask: Ask) -> None:
    with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError)):
        ask("wrong", 2)


def test_a_rate_limit_is_raised_or_waited_out(server: ServerProcess, api: str, ask: Ask, key: str) -> None:
    kind: type[Any] = anthropic.RateLimitError if api == "messages" else openai.RateLimitError
    refused = refusal_of(server, key, lambda: ask(key, 0), kind)
    assert int(refused.response.headers["retry-after"]) >= 1
    spend(server, key)
    assert ask(key, 2) == ANSWER


def test_a_full_queue_is_waited_out(server: ServerProcess, ask: Ask, key: str) -> None:
    waited = through_a_full_queue(server, key, lambda: ask(key, 2))
    assert waited.result == ANSWER
    assert waited.seconds >= 1  # their own first pause is half a second


def test_what_is_not_served_is_not_found(server: ServerProcess, key: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [NAME]
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model=NAME, input="x")
