"""Which entry of an array or object is wrong: its place is the `param` of the error."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_server.api.bodies.checking import Bodies
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError
from tests.unit.qwen_server.serving import make_settings

BODIES = Bodies(make_settings(max_sequences=4))
TEXT = {"prompt": "x"}
CHAT = {"messages": [{"role": "user", "content": "x"}]}
INPUT = {"input": "x"}


def error_of(kind: Kind, body: dict[str, Any]) -> tuple[str | None, str]:
    """The `param` and the message of the error that the body gets."""
    with pytest.raises(HttpError) as caught:
        BODIES.check(kind, body)
    error = caught.value.body["error"]
    return error["param"], error["message"]


@pytest.mark.parametrize(
    ("kind", "body", "param", "text"),
    [
        ("completion", TEXT | {"stop": ["a", ""]}, "stop[1]", "must be a string of 1 to 1024 characters"),
        ("completion", TEXT | {"stop": ["a", "b", 3]}, "stop[2]", "must be a string of 1 to 1024 characters"),
        ("chat", CHAT | {"stop": ["x" * 1025]}, "stop[0]", "must be a string of 1 to 1024 characters"),
        ("chat", CHAT | {"stop": ""}, "stop", "must be a string or an array of strings"),
        ("chat", CHAT | {"stop": {"0": "a"}}, "stop", "must be a string or an array of strings"),
        ("chat", CHAT | {"logit_bias": {"7": 1, "50": 101}}, "logit_bias.50", "must be a number between -100 and 100"),
        ("chat", CHAT | {"logit_bias": {"7": 1, "50": "x"}}, "logit_bias.50", "must be a number between -100 and 100"),
        ("chat", CHAT | {"logit_bias": {"7": 1, "the": 1}}, "logit_bias.the", "must have the name of a token id"),
        ("chat", CHAT | {"logit_bias": {"x" * 100: 1}}, "logit_bias." + "x" * 64, "must have the name of a token id"),
        ("chat", CHAT | {"logit_bias": [1]}, "logit_bias", "must be an object of at most 1024 numbers"),
        ("chat", CHAT | {"stop_token_ids": [1, -1]}, "stop_token_ids[1]", "must be a token id"),
        ("chat", CHAT | {"stop_token_ids": 1}, "stop_token_ids", "must be an array of at most 1024 token ids"),
        ("chat", CHAT | {"allowed_token_ids": [1, True]}, "allowed_token_ids[1]", "must be a token id"),
        ("chat", CHAT | {"allowed_token_ids": []}, "allowed_token_ids", "must be a non-empty array of token ids"),
        ("chat", CHAT | {"bad_words": ["a", "x" * 129]}, "bad_words[1]", "must be a string of 1 to 128 characters"),
        *(
            ("chat", CHAT | {"repetition_detection": given}, place, text)
            for given, place, text in (
                (5, "repetition_detection", "must be an object"),
                ({"max_pattern_size": 129}, "repetition_detection.max_pattern_size", "must be"),
                ({"min_pattern_size": -1}, "repetition_detection.min_pattern_size", "must be"),
                ({"max_pattern_size": 2, "min_count": 1025}, "repetition_detection.min_count", "must be"),
                ({"max_pattern_size": 2, "min_count": 2.5}, "repetition_detection.min_count", "must be"),
                ({"max_pattern_size": True, "min_count": 2}, "repetition_detection.max_pattern_size", "must be"),
                ({"max_pattern_size": 2}, "repetition_detection", "must have a min_count of at least 2"),
                (
                    {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2},
                    "repetition_detection",
                    "must have a min_pattern_size",
                ),
            )
        ),
        ("chat", CHAT | {"bad_words": ["a"] * 129}, "bad_words", "must be an array of at most 128 strings"),
        ("messages", CHAT | {"max_tokens": 5, "stop_sequences": ["a", 1]}, "stop_sequences[1]", "must be a string"),
        ("responses", INPUT | {"metadata": {"a": "b", "c": 1}}, "metadata.c", "must be a string"),
        ("completion", {"prompt": [1, 2, "x"]}, "prompt[2]", "must be a token id"),
        ("completion", {"prompt": [[1], [2, -1]]}, "prompt[1][1]", "must be a token id"),
        ("completion", {"prompt": [[1], []]}, "prompt[1]", "must be a non-empty array of token ids"),
        ("completion", {"prompt": ["a", 1]}, "prompt[1]", "must be a string"),
        ("completion", {"prompt": [{"a": 1}]}, "prompt", "must be a string or a non-empty array"),
        ("completion", {"prompt": [True]}, "prompt", "must be a string or a non-empty array"),
        ("completion", {"prompt": []}, "prompt", "must be a string or a non-empty array"),
        ("detokenize", {"tokens": [1, 2.5]}, "tokens[1]", "must be a token id"),
    ],
)
def test_an_error_names_the_entry(kind: Kind, body: dict[str, Any], param: str, text: str) -> None:
    place, message = error_of(kind, body)
    assert place == param
    assert message.startswith(f"{param} {text}")


def test_too_many_answers_name_the_flag() -> None:
    param, message = error_of("completion", {"prompt": ["a", "b"], "n": 3})
    assert param == "n"
    assert "6 answers" in message
    assert "(set by --max-sequences)" in message
