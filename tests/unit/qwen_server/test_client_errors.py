"""Client errors: a 4xx in OpenAI's format that names the parameter, and no slot taken."""

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.unit.qwen_server.serving import Served, serve

TEXT = {"type": "text", "text": "x"}
USER = [{"role": "user", "content": "x"}]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve(max_body_bytes=20_000) as served:
        yield served


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response in OpenAI's format."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"] is None or isinstance(error["code"], str)
    assert "Traceback" not in response.text
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 513}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_completion_tokens": 513}, "max_completion_tokens"),
        ({"min_tokens": 513}, "min_tokens"),
        ({"temperature": 1.01}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a"] * 33}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ""}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": []}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"guided_json": {}}, "guided_json"),
        ({"response_format": "json"}, "response_format"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [*USER, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [*USER, {"role": "user", "content": [TEXT, {"type": "text"}]}]}, "messages[1].content[1].text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": 5}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "content": "x", "reasoning": 5}]}, "messages[0].reasoning"),
        ({"messages": [{"role": "assistant", "reasoning_content": []}]}, "messages[0].reasoning_content"),
        ({"messages": [{"role": "assistant", "tool_calls": [5]}]}, "messages[0].tool_calls[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": [{}] * 1025}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": 5}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": 5}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, "chat_template_kwargs.enable_thinking"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "messages"),
    ],
)
async def test_a_bad_parameter_of_a_chat_is_named(served: Served, fields: dict[str, Any], param: str) -> None:
    response = await served.client.post("/v1/chat/completions", json={"messages": USER} | fields)
    error = error_of(response, 400)
    assert error["param"] == param
    assert re.split(r"[.\[]", param, maxsplit=1)[0] in error["message"] or "prompt" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [[1], [2, "a"]]}, "prompt[1][1]"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"best_of": 1.0}, "best_of"),
        ({"suffix": 1}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": False}, "max_tokens"),
        ({"max_tokens": -1, "echo": True}, "max_tokens"),
    ],
)
async def test_a_bad_parameter_of_a_completion_is_named(served: Served, fields: dict[str, Any], param: str) -> None:
    response = await served.client.post("/v1/completions", json={"prompt": "x"} | fields)
    assert error_of(response, 400)["param"] == param


async def test_limits_are_named_with_their_values(served: Served) -> None:
    response = await served.chat(max_tokens=513)
    assert "between 1 and 512" in error_of(response, 400)["message"]
    response = await served.chat(temperature=1.5)
    assert "between 0 and 1" in error_of(response, 400)["message"]
    response = await served.client.post("/v1/completions", json={"prompt": ["a"] * 129})
    assert "128" in error_of(response, 400)["message"]


async def test_a_limit_is_named_with_its_setting(served: Served) -> None:
    for fields, flag in (
        ({"max_tokens": 513}, "--max-tokens-limit"),
        ({"min_tokens": 513}, "--max-tokens-limit"),
        ({"temperature": 1.5}, "--max-temperature"),
        ({"temperature": -1}, "--min-temperature"),
        ({"n": 17}, "--max-choices"),
        ({"stop": ["a"] * 33}, "--max-stops"),
    ):
        assert f"(set by {flag})" in error_of(await served.chat(**fields), 400)["message"]
    assert "set by" not in error_of(await served.chat(n=0), 400)["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"x"',
        b"null",
        b'{"messages": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b'{"messages": "\xff\xfe"}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"a": ' * 2000 + b"1" + b"}" * 2000,
        b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}",
    ],
)
async def test_a_body_that_is_not_a_json_object_is_a_400(served: Served, raw: bytes) -> None:
    response = await served.client.post(
        "/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    error_of(response, 400)


async def test_a_body_above_the_limit_is_a_413(served: Served) -> None:
    response = await served.chat("x" * 30_000)
    assert "20000 bytes" in error_of(response, 413)["message"]


async def test_a_chunked_body_above_the_limit_is_a_413(served: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    response = await served.client.post(
        "/v1/chat/completions", content=endless(), headers={"content-type": "application/json"}
    )
    error_of(response, 413)


async def test_another_content_type_is_a_415(served: Served) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = await served.client.post(
            "/v1/completions", content=b'{"prompt": "x"}', headers={"content-type": content_type}
        )
        assert content_type.split(";")[0] in error_of(response, 415)["message"]


async def test_json_with_a_charset_or_without_a_type_is_accepted(served: Served) -> None:
    for headers in ({"content-type": "application/json; charset=utf-8"}, {}):
        response = await served.client.post("/v1/completions", content=b'{"prompt": "x"}', headers=headers)
        assert response.status_code == 200


async def test_another_model_is_a_404(served: Served) -> None:
    error = error_of(await served.chat(model="gpt-4o"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "gpt-4o" in error["message"]


async def test_unknown_paths_and_methods_are_answered_in_shape(served: Served) -> None:
    error_of(await served.client.get("/v1/nothing"), 404)
    error_of(await served.client.post("/v1/models/"), 405)
    response = await served.client.get("/v1/chat/completions")
    error_of(response, 405)
    assert response.headers["allow"] == "OPTIONS, POST"


async def test_a_prompt_too_long_is_the_engines_400_and_frees_its_slot(served: Served) -> None:
    before = (await served.metrics())["requests"]
    for _ in range(20):
        error = error_of(await served.chat("x" * 3000), 400)
        assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
    assert (served.service.admission.running, served.service.admission.waiting) == (0, 0)
    after = (await served.metrics())["requests"]
    assert (after["total"] - before["total"], after["failed"]) == (20, before["failed"]), "they had a slot"


async def test_unknown_fields_are_ignored_with_one_line(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        response = await served.chat(foo=1, bar={"x": []})
    assert response.status_code == 200
    assert not {"foo", "bar"} & set(served.engine.bodies[-1])
    lines = [record.getMessage() for record in caplog.records if "unknown field" in record.getMessage()]
    assert lines == ["ignored 2 unknown field(s) of a request: 'bar, foo'"]
