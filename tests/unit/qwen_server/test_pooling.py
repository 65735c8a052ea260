"""Embeddings, scores and classes: which server answers which path, how they are counted, limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import openai
import pytest

from qwen_server.api.bodies.checking import Bodies
from qwen_server.api.tasks import refusal_of, serves
from qwen_server.config.values import Task
from qwen_server.engine.base import Kind, Vitals, stalled_seconds
from qwen_server.engine.vllm.heartbeat import Heartbeat
from qwen_server.engine.vllm.shared_turns import SharedTurns
from qwen_server.http.error_bodies import HttpError
from tests.scripted_answers import PROMPT_TOKENS
from tests.unit.qwen_server.serving import make_settings, serve

BODIES = Bodies(make_settings(max_inputs=3))
PAIR = {"query": "x", "documents": ["x", "y"]}
ANSWERED: dict[Task, dict[str, dict[str, Any]]] = {
    "embed": {
        "/v1/embeddings": {"input": ["x", "y"]},
        "/pooling": {"input": "x"},
        "/score": {"queries": "x", "documents": ["x", "y"]},
        "/v1/score": {"text_1": "x", "text_2": "y"},
        "/rerank": PAIR,
        "/v1/rerank": PAIR,
        "/v2/rerank": PAIR,
    },
    "rerank": {"/rerank": PAIR, "/score": {"queries": ["x", "y"], "documents": ["x", "y"]}},
    "classify": {"/classify": {"input": ["x"]}, "/pooling": {"input": [[1, 2], [3]]}},
}


@pytest.mark.parametrize("task", ANSWERED)
async def test_a_server_answers_the_paths_of_its_task(task: Task) -> None:
    async with serve(task=task) as served:
        for path, body in ANSWERED[task].items():
            response = await served.client.post(path, json=body)
            assert response.status_code == 200, response.text
            assert response.headers["content-type"] == "application/json"
            assert "queue;dur=" in response.headers["server-timing"]
        metrics = await served.metrics()
        assert metrics["requests"]["successful"] == len(ANSWERED[task])
        assert metrics["tokens"]["total_input"] == PROMPT_TOKENS * sum(
            2 if len(texts) == 2 else 1 for body in ANSWERED[task].values() for texts in list(body.values())[-1:]
        )
        refused = await served.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "task_not_served")
        assert f"--task={task}" in refused.json()["error"]["message"]
        anthropic = await served.client.post("/v1/messages", json={})
        assert anthropic.json()["error"]["type"] == "not_found_error"


async def test_a_server_that_generates_names_the_task_that_a_path_needs() -> None:
    async with serve() as served:
        response = await served.client.post("/v1/embeddings", json={"input": "x"})
        assert (response.status_code, response.json()["error"]["message"]) == (
            404,
            "/v1/embeddings needs a server with --task=embed; this one generates text (--task=generate) and answers "
            "/v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, /v1/messages/count_tokens",
        )
        rerank = await served.client.post("/rerank", json=PAIR)
        assert "--task=embed or --task=rerank" in rerank.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body", "param", "limit"),
    [
        ("embeddings", {"input": "x" * ((1 << 20) + 1)}, "input", "1048576 characters"),
        ("classify", {"input": ["x", "x" * ((1 << 20) + 1)]}, "input[1]", "1048576 characters"),
        ("rerank", PAIR | {"instruction": "x" * 65537}, "instruction", "must have at most 65536 characters"),
    ],
)
def test_a_text_above_the_limit_is_told_the_limit(kind: Kind, body: dict[str, Any], param: str, limit: str) -> None:
    with pytest.raises(HttpError) as caught:
        BODIES.check(kind, body)
    assert caught.value.param == param
    assert limit in caught.value.text


def test_an_empty_text_may_be_ranked_but_not_embedded() -> None:
    assert BODIES.check("rerank", {"query": "x", "documents": ["y", ""]}).fields["documents"] == ["y", ""]
    BODIES.check("score", {"queries": "", "documents": [""]})
    with pytest.raises(HttpError) as caught:
        BODIES.check("embeddings", {"input": ["x", ""]})
    assert caught.value.param == "input[1]"


@pytest.mark.parametrize("name", ["normalize", "softmax", "activation"])
def test_a_name_that_vllm_has_removed_is_refused_if_it_asks_for_other_numbers(name: str) -> None:
    BODIES.check("embeddings", {"input": "x", name: True})
    with pytest.raises(HttpError) as caught:
        BODIES.check("embeddings", {"input": "x", name: False})
    assert "use use_activation" in caught.value.text


def test_every_kind_is_served_by_some_task() -> None:
    tasks: tuple[Task, ...] = get_args(Task)
    for kind in get_args(Kind):
        assert any(serves(task, kind) for task in tasks)
        assert all((refusal_of(kind, task) is None) == serves(task, kind) for task in tasks)
    assert serves("classify", "tokenize")


async def test_the_openai_sdk_reads_embeddings() -> None:
    async with serve(task="embed") as served:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
            answer = await sdk.embeddings.create(model="qwen-news-classifier", input=["x", "y"])
        assert [item.embedding for item in answer.data] == [[0.5, -0.5]] * 2
        assert served.engine.bodies[0]["encoding_format"] == "base64"


async def test_failures_and_overload_are_answered_as_elsewhere() -> None:
    async with serve(task="embed", max_concurrent_requests=1, max_queue_size=0) as served:
        failed = await served.client.post("/v1/embeddings", json={"input": '@{"fail": "CUDA out of memory"}'})
        assert (failed.status_code, failed.json()) == (500, {"error": "CUDA out of memory"})
        slow = asyncio.create_task(served.client.post("/v1/embeddings", json={"input": '@{"first": 30}'}))
        while not served.service.admission.running:  # noqa: ASYNC110 (any state, not an event)
            await asyncio.sleep(0.005)
        full = await served.client.post("/v1/embeddings", json={"input": "x"})
        assert (full.status_code, "queue_size" in full.json()) == (503, True)
        slow.cancel()
        await served.until_idle()


def refusal(kind: Kind, **fields: Any) -> tuple[str | None, str]:
    with pytest.raises(HttpError) as caught:
        BODIES.check(kind, fields)
    return caught.value.param, caught.value.text


@pytest.mark.parametrize(
    ("kind", "fields", "param", "text"),
    [
        ("embeddings", {}, "input", "is required"),
        ("embeddings", {"input": ""}, "input", "1 to 1048576 characters"),
        ("embeddings", {"input": ["x", ""]}, "input[1]", "1 to 1048576"),
        ("embeddings", {"input": ["x"] * 4}, "input", "input has 4 entries; the limit is 3 (set by --max-inputs)"),
        ("embeddings", {"input": "x", "encoding_format": "bytes"}, "encoding_format", "'float' or 'base64'"),
        ("embeddings", {"input": "x", "dimensions": 0}, "dimensions", "at least 1"),
        ("embeddings", {"input": "x", "embed_dtype": "float16"}, "embed_dtype", "float32"),
        ("embeddings", {"input": "x", "messages": [{}]}, "messages", "this path calls it input"),
        ("classify", {"input": "x", "dimensions": 5}, "dimensions", "another path"),
        ("pooling", {"input": [1.5]}, "input", "token ids"),
        ("rerank", {"query": "x"}, "documents", "is required"),
        ("rerank", {"query": ["x"], "documents": "x"}, "query", "a string of at most 1048576"),
        ("rerank", {"query": "x", "documents": ["x", {}]}, "documents[1]", "a string of at most 1048576"),
        ("rerank", {"query": "x", "documents": "x", "top_n": -1}, "top_n", "at least 0"),
        ("score", {"queries": "x"}, "documents", "is required"),
        ("score", {"text_1": "x"}, "text_2", "is required"),
        ("score", {"queries": ["x", "y"], "documents": ["x"]}, "queries", "must be one text, or as many as documents"),
        ("score", {"query": "x", "queries": "x", "documents": "x"}, "query", "this path calls it queries"),
    ],
)
def test_mistakes_are_named(kind: Kind, fields: dict[str, Any], param: str, text: str) -> None:
    assert refusal(kind, **fields)[0] == param
    assert text in refusal(kind, **fields)[1]


def test_what_asks_for_nothing_passes() -> None:
    body = BODIES.check("embeddings", {"input": [5, 6, 7, 8], "embed_dtype": "float32", "user": "me", "n": 1})
    assert (body.prompts, dict(body.fields)) == (1, {"input": [5, 6, 7, 8], "model": "qwen-news-classifier"})
    assert BODIES.check("rerank", PAIR | {"return_documents": True}).prompts == 2


async def test_texts_share_turns() -> None:
    begun: Counter[str] = Counter()

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        begun["all"] += 1
        begun["now"] += 1
        begun["most"] = max(begun["most"], begun["now"])
        yield
        begun["now"] -= 1

    shared = SharedTurns(turn, 4)

    async def read() -> None:
        async with shared.next():
            await asyncio.sleep(0)
            assert begun["now"]

    await asyncio.gather(*(read() for _ in range(10)))
    assert (begun["all"], begun["now"], begun["most"]) == (3, 0, 3)


async def test_a_turn_that_does_not_come_is_given_back_once() -> None:
    entered: list[str] = []

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        entered.append("never")
        yield

    shared = SharedTurns(turn, 4)

    async def read() -> None:
        async with shared.next():
            raise AssertionError

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.sleep(0)
    for reader in readers:
        reader.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*readers, return_exceptions=True)
    )
    assert entered == []


def test_results_are_progress_although_they_are_no_tokens() -> None:
    heartbeat = Heartbeat(last_step_at=0.0, last_token_at=0.0, busy_since=0.0)

    def stalled() -> float:
        vitals = Vitals("ready", 1, heartbeat.last_step_at, heartbeat.last_token_at, busy_since=heartbeat.busy_since)
        return stalled_seconds(vitals, 60.0)

    for second in range(60):
        heartbeat.on_result(float(second))
        heartbeat.on_step(float(second), tokens=0, kv_cache_usage=0.0)
    assert stalled() == 0.0
    heartbeat.on_step(60.0, tokens=0, kv_cache_usage=0.0)
    assert stalled() == 1.0
