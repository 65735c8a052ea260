"""Generated requests, and answers normalized for comparison."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.answers import difference, streamed, whole
from benchmarks.cases import cases
from qwen_server.api.bodies.checking import Bodies
from qwen_server.config.settings import Settings

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def _events(*chunks: dict[str, Any], done: bool = True) -> bytes:
    lines = [json.dumps(chunk) for chunk in chunks] + (["[DONE]"] if done else [])
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def _chunk(content: str | None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason, **more}]}


def _whole(**choice: Any) -> bytes:
    message = {"content": choice.pop("content", "ab")}
    return json.dumps({"choices": [{"index": 0, "message": message, **choice}], "usage": USAGE}).encode()


def test_a_stream_is_what_the_whole_answer_is_however_it_was_cut() -> None:
    one = {"content": [{"token": "a", "logprob": -0.1}]}
    two = {"content": [{"token": "b", "logprob": -0.2}]}
    stream = _events(
        _chunk(""),
        _chunk("a", logprobs=one),
        _chunk("b", "stop", logprobs=two),
        {"choices": [], "usage": USAGE | {"prompt_tokens_details": None}},
    )
    both = {"content": one["content"] + two["content"]}
    assert streamed(200, stream, stops=False) == whole(200, _whole(finish_reason="stop", logprobs=both), stops=False)


def test_a_difference_is_shown() -> None:
    one = whole(200, _whole(finish_reason="stop"), stops=False)
    two = whole(200, _whole(finish_reason="length"), stops=False)
    assert difference(one, one) == ""
    assert '-   "finish_reason": "length"' in difference(one, two)
    assert '+   "finish_reason": "stop"' in difference(one, two)


def test_logprobs_may_differ_in_the_sixth_decimal_only() -> None:
    values = [{"content": [{"token": "a", "logprob": value}]} for value in (-0.1234561, -0.1234563, -0.12347)]
    first, same, other = (whole(200, _whole(finish_reason="stop", logprobs=value), stops=False) for value in values)
    assert difference(first, same) == ""
    assert difference(first, other)


def test_a_stream_without_its_end_is_no_answer() -> None:
    assert "unfinished" in streamed(200, _events(_chunk("a", "stop"), done=False), stops=False)


def test_which_stop_it_was_matters_if_the_client_gave_some() -> None:
    body = _whole(finish_reason="stop", stop_reason="。")
    assert whole(200, body, stops=True) != whole(200, _whole(finish_reason="stop"), stops=True)
    assert whole(200, body, stops=False) == whole(200, _whole(finish_reason="stop"), stops=False)


def test_tool_calls_are_put_together_without_their_random_ids() -> None:
    parts = [{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]
    more = [{"index": 0, "function": {"arguments": "{}"}}]
    stream = _events(
        {"choices": [{"index": 0, "delta": {"tool_calls": parts}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": more}, "finish_reason": "tool_calls"}]},
    )
    answer = streamed(200, stream, stops=False)
    assert answer["choices"]["0"]["tool_calls"] == [{"name": "f", "arguments": "{}"}]


def test_cases_are_valid_varied_and_the_same_from_the_same_seed() -> None:
    made = cases(240, 1)
    assert made == cases(240, 1)
    bodies = Bodies(Settings(served_model_name="bench", max_tokens_limit=4096))
    checked = [bodies.check("chat" if "messages" in case.body else "completion", case.body) for case in made]
    assert 80 < sum(body.fast for body in checked) < 200
    assert 80 < sum(body.stream for body in checked) < 160
    assert all("temperature" in case.body for case in made)
    fields = {name for case in made for name in case.body}
    assert fields >= {"n", "stop", "logprobs", "echo", "seed", "logit_bias", "structured_outputs", "tools", "min_p"}
