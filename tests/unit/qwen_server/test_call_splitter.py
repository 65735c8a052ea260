"""Calls of tools in an answer: complete ones are calls, cut ones are text, in any pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.engine.vllm.call_splitter import CallSplitter

ONE = '<tool_call>\n{"name": "f", "arguments": {"city": "北京"}}\n</tool_call>'
TWO = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


def _names(text: str) -> list[str]:
    body = text.removeprefix("<tool_call>").removesuffix("</tool_call>")
    try:
        return [json.loads(body)["name"]]
    except (ValueError, KeyError, TypeError):
        return []


def splitter() -> CallSplitter[str]:
    return CallSplitter({"<tool_call>": "</tool_call>"}, ("</think>",), _names, lambda text: bool(_names(text)))


def split(*pieces: str) -> tuple[str, list[str]]:
    """The text and the names of the calls of an answer in these pieces."""
    reader = splitter()
    results = [*map(reader.feed, pieces), reader.finish()]
    return "".join(text for text, _ in results), [name for _, names in results for name in names]


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        ("", "", []),
        ("体育", "体育", []),
        (" \n", " \n", []),
        (ONE, "", ["f"]),
        (f"\n\n{ONE}\n{TWO}\n", "", ["f", "g"]),
        (f"好的。\n{ONE}", "好的。\n", ["f"]),
        (f"{ONE}\n然后\n{TWO}。", "\n然后\n。", ["f", "g"]),
        (ONE.removesuffix("</tool_call>"), "", ["f"]),
        (f"{ONE}\n{TWO}".removesuffix("\n</tool_call>"), "", ["f", "g"]),
        ("a</think>b", "ab", []),
        (f"\n</think>\n{ONE}", "", ["f"]),
    ],
)
def test_complete_calls_are_calls(answer: str, text: str, calls: list[str]) -> None:
    assert split(answer) == (text, calls)


@pytest.mark.parametrize("cut", range(1, len(ONE) - len("\n</tool_call>")))
def test_a_cut_call_is_text(cut: int) -> None:
    assert split(ONE[:cut]) == (ONE[:cut], [])
    assert split(f"好的。{ONE[:cut]}") == (f"好的。{ONE[:cut]}", [])
    assert split(f"{TWO}\n{ONE[:cut]}") == (f"\n{ONE[:cut]}", ["g"])


def test_what_is_no_call_is_text() -> None:
    wrong = "<tool_call>\n[1, 2]\n</tool_call>"
    assert split(wrong) == (wrong, [])
    assert split(f"{wrong}\n{ONE}") == (f"{wrong}\n", ["f"])
    assert split("a < b </tool_call>") == ("a < b </tool_call>", [])


def test_text_and_calls_are_passed_on_as_soon_as_they_are_certain() -> None:
    reader = splitter()
    assert reader.feed("好的") == ("好的", [])
    assert reader.feed("。<to") == ("。", [])
    assert reader.feed(ONE[3:-1]) == ("", [])
    assert reader.feed(">\n") == ("", ["f"])
    assert reader.feed("完") == ("\n完", [])
    assert reader.finish() == ("", [])


ANSWERS = st.lists(
    st.sampled_from([ONE, TWO, ONE[:20], "<tool_call>", "</tool_call>", "</think>", "<to", "\n", " ", "好的。", "x<"]),
    max_size=6,
).map("".join)


@given(ANSWERS, st.data())
def test_pieces_make_no_difference(answer: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=12)))
    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert split(*pieces) == split(answer) == split(*answer)
