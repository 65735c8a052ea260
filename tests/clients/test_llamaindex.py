"""LlamaIndex's OpenAILike."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.clients.overload import refusal_of, spend, through_a_full_queue
from tests.clients.questions import ANSWER, CALL, CITY, LABEL, NAME, PROMPT, QUESTION, forced
from tests.integration.server_process import ServerProcess

TALK = [ChatMessage(role="user", content=QUESTION)]


class Label(BaseModel):
    """The class of a headline."""

    category: Literal["财经", "体育"]


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}：晴"


def model_of(server: ServerProcess, key: str, **options: Any) -> OpenAILike:
    given: dict[str, Any] = {
        "is_chat_model": True,
        "is_function_calling_model": True,
        "context_window": 4096,
        "temperature": 0,
        "max_retries": 0,
        "max_tokens": 200,
    }
    return OpenAILike(model=NAME, api_base=f"{server.url}/v1", api_key=key, **(given | options))


def test_an_answer_streamed_and_not(server: ServerProcess, key: str) -> None:
    model = model_of(server, key)
    whole = model.chat(TALK)
    pieces = list(model.stream_chat(TALK))
    assert whole.message.content == pieces[-1].message.content == ANSWER
    assert "".join(piece.delta or "" for piece in pieces) == ANSWER
    assert whole.raw.usage.total_tokens == whole.raw.usage.prompt_tokens + whole.raw.usage.completion_tokens


async def test_the_asynchronous_form(server: ServerProcess, key: str) -> None:
    model = model_of(server, key)
    assert (await model.achat(TALK)).message.content == ANSWER
    assert "".join([piece.delta or "" async for piece in await model.astream_chat(TALK)]) == ANSWER


def test_a_completion(server: ServerProcess, key: str) -> None:
    model = model_of(server, key, is_chat_model=False, max_tokens=20)
    assert model.complete(PROMPT).text == LABEL
    assert "".join(piece.delta or "" for piece in model.stream_complete(PROMPT)) == LABEL


def test_a_tool_is_called(server: ServerProcess, key: str) -> None:
    model = model_of(server, key, additional_kwargs={"extra_body": forced(CALL)})
    tools = [FunctionTool.from_defaults(get_weather)]
    whole = model.chat_with_tools(tools, user_msg=QUESTION)
    streamed = list(model.stream_chat_with_tools(tools, user_msg=QUESTION))[-1]
    for answer in (whole, streamed):
        (call,) = model.get_tool_calls_from_response(answer)
        assert (call.tool_name, call.tool_kwargs) == ("get_weather", CITY)
    (call,) = model.get_tool_calls_from_response(whole)
    result = ChatMessage(role="tool", content="晴", additional_kwargs={"tool_call_id": call.tool_id})
    answering = model_of(server, key, additional_kwargs={"extra_body": forced("北京今天晴。")})
    after = answering.chat_with_tools(tools, chat_history=[*TALK, whole.message, result])
    assert after.message.content == "北京今天晴。"


def test_an_answer_is_parsed(server: ServerProcess, key: str, no_blanks: dict[str, int]) -> None:
    model = model_of(server, key, should_use_structured_outputs=True, additional_kwargs={"logit_bias": no_blanks})
    assert isinstance(model.structured_predict(Label, PromptTemplate("{q}"), q=QUESTION), Label)


def test_errors_are_openais(server: ServerProcess, key: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        model_of(server, "wrong").chat(TALK)
    with pytest.raises(openai.BadRequestError, match="512"):
        model_of(server, key, max_tokens=32_000).chat(TALK)
    refusal_of(server, key, lambda: model_of(server, key).chat(TALK), openai.RateLimitError)


def test_refusals_are_waited_out(server: ServerProcess, key: str) -> None:
    model = model_of(server, key, max_retries=3)
    assert through_a_full_queue(server, key, lambda: model.chat(TALK).message.content).result == ANSWER
    spend(server, key)
    assert model.chat(TALK).message.content == ANSWER
