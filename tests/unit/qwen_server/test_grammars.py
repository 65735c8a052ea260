"""Grammars of requests: bounded when the body is read, and checked before they take a slot."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from qwen_server.api.bodies.grammars import GrammarBounds, grammars_of
from qwen_server.engine.base import BusyError, EngineError, InvalidRequestError
from qwen_server.http.error_bodies import HttpError
from tests.unit.qwen_server.serving import Served, make_settings, serve, until

REGEX: dict[str, Any] = {"structured_outputs": {"regex": "a"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STRICT = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def text_format(**schema: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}


def vllms(**grammar: Any) -> dict[str, Any]:
    return {"structured_outputs": grammar}


def openais(**schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


DEEP_TEXT = '{"a":' * 40 + "1" + "}" * 40
MANY = {f"p{number}": {"type": "string"} for number in range(5000)}


@pytest.mark.parametrize(
    ("fields", "param", "bound"),
    [
        (vllms(json={"pattern": "^[a-z]{1,14000}x?$"}), "structured_outputs.json", "repeats"),
        (vllms(json=json.dumps({"pattern": "a{14000}"})), "structured_outputs.json", "repeats"),
        (vllms(json={"patternProperties": {"a{5000}": {}}}), "structured_outputs.json", "repeats"),
        (vllms(json={"maxLength": 1e9}), "structured_outputs.json", "repeats"),
        (vllms(json={"items": {"minItems": 5000}}), "structured_outputs.json", "repeats"),
        (vllms(regex="(a{ 2 , 99999 })"), "structured_outputs.regex", "repeats"),
        (vllms(regex="a{" + "9" * 5000 + "}"), "structured_outputs.regex", "repeats"),
        (vllms(grammar='root ::= "a"{9999}'), "structured_outputs.grammar", "repeats"),
        (vllms(grammar='start: "a"~1..9999'), "structured_outputs.grammar", "repeats"),
        (vllms(grammar="x" * 300_000), "structured_outputs.grammar", "size"),
        (vllms(choice=["x" * 1000] * 300), "structured_outputs.choice", "size"),
        (vllms(choice=["x"] * 5000), "structured_outputs.choice", "branches"),
        (vllms(structural_tag=DEEP_TEXT), "structured_outputs.structural_tag", "depth"),
        (openais(enum=["x"] * 5000), "response_format", "branches"),
        (openais(**nested(40)), "response_format", "depth"),
        ({"response_format": {"type": "json_object", "more": [0] * 1_000_000}}, "response_format", "values"),
        (text_format(properties=MANY), "text.format", "values"),
        ({"output_config": {"format": {"schema": {"anyOf": [{}] * 5000}}}}, "output_config.format", "branches"),
        ({"tools": [STRICT | {"more": nested(40)}]}, "tools", "depth"),
        ({"tools": [TOOL | {"x": {"maxItems": 5000}}], "tool_choice": "required"}, "tools", "repeats"),
    ],
)
def test_a_grammar_out_of_bounds_is_refused_at_once(fields: dict[str, Any], param: str, bound: str) -> None:
    bounds = GrammarBounds(make_settings())
    begun = time.thread_time()
    ((place, grammar),) = grammars_of(fields)
    with pytest.raises(HttpError) as caught:
        bounds.check(place, grammar)
    assert time.thread_time() - begun < 0.05
    error = caught.value.body["error"]
    assert caught.value.status == 400
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert f"--max-grammar-{bound}" in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"json": {"maxLength": 4096, "pattern": "^[a-z]{1,64}$"}}},
        {"structured_outputs": {"json": {"properties": {"maxLength": {"default": 1e9, "enum": [1e9]}}}}},
        {"structured_outputs": {"json": {"properties": {"pattern": {"const": "{99999}"}}}}},
        {"structured_outputs": {"json": '{"not JSON'}},
        {"structured_outputs": {"grammar": 'root ::= "{" [^}]* "}"'}},
        {"structured_outputs": {"choice": ["{99999}"] * 4096}},
    ],
)
def test_a_usual_grammar_is_within_the_bounds(fields: dict[str, Any]) -> None:
    bounds = GrammarBounds(make_settings())
    for place, grammar in grammars_of(fields):
        bounds.check(place, grammar)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}},
        {"output_config": {"effort": "low"}},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [STRICT], "tool_choice": "none"},
        {"tools": [TOOL], "tool_choice": {"type": "auto"}},
        {"tools": [TOOL], "tool_choice": {"type": "none"}},
        {"structured_outputs": {"disable_any_whitespace": True}},
    ],
)
def test_what_constrains_nothing_is_no_grammar(fields: dict[str, Any]) -> None:
    assert grammars_of(fields) == []


@pytest.mark.parametrize(
    "fields",
    [
        REGEX,
        {"response_format": {"type": "json_object"}},
        {"response_format": SCHEMA},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"tools": [TOOL], "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {"tools": [STRICT]},
        {"tools": [{"type": "function", "name": "f", "strict": True}]},
    ],
)
def test_what_constrains_the_answer_is_a_grammar(fields: dict[str, Any]) -> None:
    assert len(grammars_of(fields)) == 1


LARGE: dict[str, Any] = {"type": "object", "properties": {"script": {"type": "string", "maxLength": 524_288}}}


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([TOOL, {"type": "function", "function": {"name": "g", "parameters": LARGE}}], {"function": {"name": "f"}}),
        ([{"name": "f"}, {"name": "g", "parameters": LARGE}], {"type": "function", "name": "f"}),
        ([{"name": "f"}, {"name": "g", "input_schema": LARGE}], {"type": "tool", "name": "f"}),
    ],
    ids=["chat", "responses", "messages"],
)
def test_only_the_tool_that_a_choice_names_is_a_grammar(tools: list[Any], choice: dict[str, Any]) -> None:
    """Claude Code has a tool whose text may have 524,288 characters."""
    bounds = GrammarBounds(make_settings())
    ((place, grammar),) = grammars_of({"tools": tools, "tool_choice": choice})
    bounds.check(place, grammar)
    assert len(grammar) == 1
    for forced in ("required", {"type": "any"}):
        ((place, grammar),) = grammars_of({"tools": tools, "tool_choice": forced})
        with pytest.raises(HttpError):
            bounds.check(place, grammar)


def test_a_choice_may_name_a_tool_of_a_namespace() -> None:
    namespace = {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "parameters": LARGE}]}
    fields = {"tools": [{"type": "function", "name": "g"}, namespace], "tool_choice": {"type": "function", "name": "f"}}
    assert grammars_of(fields) == [("tools", [namespace])]


@pytest.mark.parametrize("strict", [True, False])
def test_the_tools_of_a_namespace_are_a_grammar_if_one_is_strict(strict: bool) -> None:
    """Codex has a namespace of tools that are not strict."""
    functions = [
        {"type": "function", "name": "f", "strict": False},
        {"type": "function", "name": "g", "strict": strict},
    ]
    fields = {"tools": [{"type": "namespace", "name": "n", "tools": functions}]}
    assert bool(grammars_of(fields)) == strict


async def test_a_bound_is_a_setting_and_the_error_names_the_place() -> None:
    async with serve(max_grammar_repeats=10) as served:
        response = await served.chat(structured_outputs={"regex": "a{11}"})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "structured_outputs.regex"
        assert "10 times" in error["message"]
        assert not served.engine.checked


async def test_a_request_without_a_grammar_is_not_checked() -> None:
    async with serve() as served:
        assert (await served.chat()).status_code == 200
        assert (await served.chat(response_format={"type": "text"})).status_code == 200
        assert not served.engine.checked
        assert (await served.chat(**REGEX)).status_code == 200
        assert len(served.engine.checked) == 1


async def test_grammars_that_wait_for_their_check_take_no_slot() -> None:
    """However many there are, a request without one is served at once."""
    async with serve(max_concurrent_requests=1, max_queue_size=0) as served:
        served.engine.compiles.clear()
        waiting = [asyncio.create_task(served.chat(**REGEX)) for _ in range(5)]
        await until(lambda: served.engine.checks == 5)
        assert served.service.admission.running == 0
        assert (await served.chat()).status_code == 200
        served.engine.compiles.set()
        statuses = sorted(each.status_code for each in await asyncio.gather(*waiting))
        assert statuses[0] == 200
        assert set(statuses) <= {200, 503}


async def test_a_check_ends_with_its_client_and_counts_as_no_failure() -> None:
    async with serve() as served:
        served.engine.compiles.clear()
        async with httpx.AsyncClient(base_url=served.url) as leaving:
            body = {"messages": [{"role": "user", "content": "x"}]} | REGEX
            request = asyncio.create_task(leaving.post("/v1/chat/completions", json=body))
            await until(lambda: served.engine.checks == 1)
            request.cancel()
        await until(lambda: not served.engine.checks)
        metrics = await served.metrics()
        assert metrics["errors"]["total"] == 0


async def refusal(served: Served, error: Exception) -> httpx.Response:
    served.engine.grammar_error = error
    return await served.chat(**REGEX)


async def test_what_the_check_finds_is_told() -> None:
    async with serve() as served:
        wrong = await refusal(served, InvalidRequestError("no such rule", param="response_format"))
        assert wrong.status_code == 400
        assert wrong.json()["error"]["param"] == "structured_outputs"
        assert wrong.json()["error"]["message"] == "no such rule"
        busy = await refusal(served, BusyError("too many"))
        assert busy.status_code == 503
        assert busy.headers["retry-after"]
        assert set(busy.json()) == {"error", "queue_size", "max_queue_size"}
        failed = await refusal(served, EngineError("out of paper"))
        assert failed.status_code == 500
        assert failed.json() == {"error": "out of paper"}
        assert served.service.admission.running == 0


async def test_a_server_that_drains_during_a_check_refuses_the_request() -> None:
    async with serve() as served:
        served.engine.compiles.clear()
        waiting = asyncio.create_task(served.chat(**REGEX))
        await until(lambda: served.engine.checks == 1)
        served.lifecycle.begin_drain("test")
        served.engine.compiles.set()
        assert (await waiting).status_code == 503
