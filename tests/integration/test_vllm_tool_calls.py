"""vLLM's parsers with whole calls, without an engine: streamed and whole answers are the same."""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.clients import tool_model

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("vllm_without_side_effects")]

CALLS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>',
    "qwen3_xml": "<tool_call>\n<function=get_weather>\n<parameter=city>\n北京\n</parameter>\n</function>\n</tool_call>",
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


class Answer(NamedTuple):
    """What a client gets. The arguments of each call are parsed."""

    reasoning: str
    content: str
    calls: list[tuple[str, Any]]


class Reader:
    """Reads answers with the parser of a family."""

    def __init__(self, family: str, tokenizer: Any) -> None:
        from vllm.parser import ParserManager

        from qwen_server.engine.vllm.tool_calls import whole_calls

        parser = whole_calls(
            ParserManager.get_parser(
                tool_parser_name=family, reasoning_parser_name="qwen3", enable_auto_tools=True, tokenizer=tokenizer
            )
        )
        assert parser is not None
        self.calls = CALLS[family]
        self._parser = parser
        self._tokenizer = tokenizer

    def request(self, **fields: Any) -> Any:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        messages = [{"role": "user", "content": "x"}]
        return ChatCompletionRequest.model_validate({"model": "m", "messages": messages, "tools": [TOOL], **fields})

    def parser(self, request: Any, thinking: bool) -> Any:
        return self._parser(self._tokenizer, request.tools, chat_template_kwargs={"enable_thinking": thinking})

    def whole(self, text: str, *, thinking: bool = False, **fields: Any) -> Answer:
        request = self.request(**fields)
        reasoning, content, calls = self.parser(request, thinking).parse(text, request, enable_auto_tools=True)
        read = [(call.name, json.loads(call.arguments)) for call in calls or []]
        return Answer(reasoning or "", content or "", read)

    def streamed(self, pieces: list[str], *, thinking: bool = False, **fields: Any) -> Answer:
        request = self.request(**fields)
        parser = self.parser(request, thinking)
        prompt = self._tokenizer.encode("<think>\n" if thinking else "x")
        reasoning = content = ""
        calls: list[tuple[str, Any]] = []
        for index, piece in enumerate(pieces):
            delta = parser.parse_delta(
                piece,
                self._tokenizer.encode(piece, add_special_tokens=False),
                request,
                prompt_token_ids=prompt,
                finished=index == len(pieces) - 1,
            )
            if delta is None:
                continue
            reasoning += delta.reasoning or ""
            content += delta.content or ""
            for call in delta.tool_calls:
                assert call.index == len(calls)
                assert call.id
                calls.append((call.function.name, json.loads(call.function.arguments)))
        return Answer(reasoning, content, calls)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tool_model.build(tmp_path_factory.mktemp("model") / "news")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=CALLS)
def reader(request: pytest.FixtureRequest, tokenizer: Any) -> Reader:
    return Reader(request.param, tokenizer)


def pieces_of(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


BEIJING = ("get_weather", {"city": "北京"})


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_complete_calls_are_streamed_as_calls(reader: Reader, size: int) -> None:
    for text, content, calls in (
        ("体育", "体育", 0),
        (reader.calls, "", 1),
        (f"好的。{reader.calls}\n{reader.calls}\n", "好的。", 2),
    ):
        assert reader.whole(text) == Answer("", content, [BEIJING] * calls)
        assert reader.streamed(pieces_of(text, size)) == Answer("", content, [BEIJING] * calls)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_cut_call_is_text_wherever_it_is_cut(reader: Reader, size: int) -> None:
    end = reader.calls.rfind("}}" if "{" in reader.calls else "</function>")
    for cut in range(1, end):
        text = f"好的。{reader.calls}\n{reader.calls[:cut]}"
        expected = Answer("", f"好的。\n{reader.calls[:cut]}", [BEIJING])
        assert reader.whole(text) == expected
        assert reader.streamed(pieces_of(text, size)) == expected


def test_a_call_without_its_last_mark_is_complete(reader: Reader) -> None:
    text = reader.calls.removesuffix("</tool_call>")
    assert reader.whole(text) == reader.streamed(pieces_of(text, 5)) == Answer("", "", [BEIJING])


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_is_cut_alike(reader: Reader, choice: Any) -> None:
    for text in (reader.calls, reader.calls[:30]):
        whole = reader.whole(text, tool_choice=choice)
        assert whole == reader.streamed(pieces_of(text, 4), tool_choice=choice)
        assert whole.content + str(whole.calls) != "[]"


def test_a_thought_stays_apart_from_calls(reader: Reader) -> None:
    text = f"我想想\n</think>\n\n{reader.calls}"
    for end in (len(text), len(text) - 20, 3):
        whole = reader.whole(text[:end], thinking=True)
        tokens = re.findall(r"</?think>|</?tool_call>|.", text[:end], re.DOTALL)
        assert whole == reader.streamed(tokens, thinking=True)
        assert whole.reasoning.startswith("我想想")
        assert "</think>" not in whole.reasoning + whole.content
    assert reader.whole(text, thinking=True).calls == [BEIJING]


def test_without_a_choice_the_marks_are_text(tokenizer: Any) -> None:
    reader = Reader("hermes", tokenizer)
    text = reader.calls
    answer = Answer("", text, [])
    assert reader.whole(text, tool_choice="none") == reader.streamed(pieces_of(text, 6), tool_choice="none") == answer


def test_a_model_of_the_xml_format_may_leave_out_the_outer_mark(tokenizer: Any) -> None:
    reader = Reader("qwen3_xml", tokenizer)
    text = reader.calls.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    assert reader.whole(text) == reader.streamed(pieces_of(text, 4)) == Answer("", "", [BEIJING])


def test_other_parsers_stay_vllms() -> None:
    from vllm.parser import ParserManager

    from qwen_server.engine.vllm.tool_calls import whole_calls

    for name in ("pythonic", ""):
        parser = ParserManager.get_parser(tool_parser_name=name, enable_auto_tools=True)
        assert whole_calls(parser) is parser
