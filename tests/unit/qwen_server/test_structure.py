"""What a body may consist of, and that a large one does not hold up others while it is parsed."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.http import structure
from qwen_server.http.body import parse_object
from qwen_server.http.error_bodies import HttpError
from qwen_server.http.structure import MAX_CONTAINERS, MAX_STRINGS, MAX_VALUES, check_structure
from tests.unit.qwen_server.serving import serve, until

PARTS = [{"type": "text", "text": "x"}]
RESULTS = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}] * 100}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def raw(value: object) -> bytes:
    return json.dumps({"x": value}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([1] * MAX_VALUES, "values"),
        ([[1]] * (MAX_CONTAINERS + 1), "objects and arrays"),
        ([{}] * (MAX_CONTAINERS + 1), "objects and arrays"),
        ({f"k{index}": 1 for index in range(MAX_STRINGS)}, "strings and names"),
        (["\\"] * MAX_STRINGS, "strings and names"),
        (['"'] * MAX_STRINGS, "strings and names"),
    ],
)
def test_a_body_of_too_many_values_is_refused(value: object, what: str) -> None:
    with pytest.raises(HttpError) as refused:
        parse_object(raw(value))
    assert refused.value.status == 400
    assert what in refused.value.body["error"]["message"]


@pytest.mark.parametrize(
    "value",
    [
        [1] * (MAX_VALUES - 10),
        [[1]] * (MAX_CONTAINERS - 10),
        {f"k{index}": 1 for index in range(MAX_STRINGS - 10)},
        "[{," * MAX_VALUES,
        '"' * MAX_VALUES,
        "\\" * MAX_VALUES,
        ['\\"[{,' * 1000] * 1000,
    ],
)
def test_what_a_text_consists_of_does_not_count(value: object) -> None:
    assert parse_object(raw(value)) == {"x": value}


@pytest.mark.parametrize("body", [b'{"x":"' + b'\\"' * MAX_VALUES, b'{"x":"' + b"\\" * 999_999, b'"' * 999_999])
def test_a_string_without_an_end_takes_no_longer(body: bytes) -> None:
    begun = time.thread_time()
    with pytest.raises(HttpError):
        parse_object(body)
    assert time.thread_time() - begun < 5  # to look at each character once takes milliseconds


@given(
    st.recursive(st.text('"\\[{,x') | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_the_count_is_that_of_the_parsed_body(value: Any) -> None:
    counts = {"values": 0, "strings": 0, "containers": 0}

    def count(item: Any) -> None:
        counts["values"] += 1
        counts["strings"] += isinstance(item, str)
        counts["containers"] += isinstance(item, dict | list)
        for child in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
            count(child)
        if isinstance(item, dict):
            counts["strings"] += len(item)

    count({"x": value})
    body = raw(value)
    for name, limit in (("STRINGS", counts["strings"]), ("CONTAINERS", counts["containers"])):
        for bound, accepted in ((limit, True), (limit - 1, False)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(structure, f"MAX_{name}", bound)
                try:
                    check_structure(body)
                    assert accepted
                except HttpError:
                    assert not accepted


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": PARTS * 4097}]}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": PARTS * 41}] * 100}, "messages"),
        ("chat/completions", {"messages": [{"role": "assistant", "tool_calls": [CALL] * 4097}]}, "messages"),
        ("messages", {"messages": [RESULTS] * 41, "max_tokens": 4}, "messages"),
        ("messages/count_tokens", {"messages": [RESULTS] * 41}, "messages"),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}] * 41}] * 100},
            "input",
        ),
        ("chat/completions", {"bad_words": ["x"] * 129}, "bad_words"),
        ("chat/completions", {"bad_words": ["x" * 129]}, "bad_words"),
        ("chat/completions", {"bad_words": [1]}, "bad_words"),
        ("chat/completions", {"allowed_token_ids": ["x"]}, "allowed_token_ids"),
    ],
)
async def test_what_takes_long_for_each_of_its_entries_is_bounded(path: str, body: dict[str, Any], param: str) -> None:
    async with serve() as served:
        least = {} if path == "responses" else {"messages": [{"role": "user", "content": "x"}]}
        response = await served.client.post(f"/v1/{path}", json=least | body)
        error = response.json()["error"]
        assert response.status_code == 400
        assert param in error.get("param", error["message"])
        if "bad" not in param and "allowed" not in param:
            assert "4100 parts" in error["message"] or "4097 parts" in error["message"]


async def test_a_conversation_within_the_bounds_is_answered() -> None:
    turns = [{"role": "user", "content": PARTS}] * 4000
    async with serve() as served:
        served.engine.max_model_len = 1 << 20
        assert (await served.client.post("/v1/chat/completions", json={"messages": turns})).status_code == 200


async def test_a_large_body_is_parsed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, others_answered = threading.Event(), threading.Event()
    async with serve() as served:
        parse: Callable[..., Any] = served.app.state.handler.bodies.parse

        def held(kind: Any, body: bytes) -> Any:
            if len(body) > 1 << 16:
                begun.set()
                assert others_answered.wait(30)
            return parse(kind, body)

        monkeypatch.setattr(served.app.state.handler.bodies, "parse", held)
        async with httpx.AsyncClient(base_url=served.url, trust_env=False) as other, asyncio.TaskGroup() as group:
            large = group.create_task(served.chat("x" * 100_000, user="x"))
            await until(begun.is_set)
            for _ in range(3):
                assert (await served.chat()).status_code == 200
                assert (await other.get("/health/live")).status_code == 200
            assert not large.done()
            others_answered.set()
        assert large.result().json()["error"]["code"] == "context_length_exceeded"
