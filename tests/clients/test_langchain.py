"""LangChain: ChatOpenAI (both of OpenAI's APIs), OpenAI and ChatAnthropic."""

from __future__ import annotations

from typing import Any, Literal

import anthropic
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.overload import refusal_of, spend, through_a_full_queue
from tests.clients.questions import ANSWER, CALL, CITY, LABEL, LONG, NAME, PROMPT, QUESTION, forced
from tests.integration.server_process import ServerProcess


class Label(BaseModel):
    """The class of a headline."""

    category: Literal["财经", "体育"]


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}：晴"


WEATHER = tool(get_weather)


def chat_openai(server: ServerProcess, key: str, **options: Any) -> ChatOpenAI:
    given = {"model": NAME, "temperature": 0, "max_retries": 0, "timeout": 90, "stream_usage": True} | options
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key=key, **given)


def chat_anthropic(server: ServerProcess, key: str, **options: Any) -> ChatAnthropic:
    given = {"temperature": 0, "max_retries": 0, "timeout": 90, "max_tokens": 200} | options
    return ChatAnthropic(base_url=server.url, api_key=key, model=NAME, **given)


def joined(model: BaseChatModel, text: str) -> AIMessageChunk:
    chunks = [chunk for chunk in model.stream(text) if isinstance(chunk, AIMessageChunk)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_an_answer_streamed_and_not(server: ServerProcess, key: str, api: str) -> None:
    model: BaseChatModel = (
        chat_anthropic(server, key)
        if api == "messages"
        else chat_openai(server, key, use_responses_api=api == "responses")
    )
    whole, streamed = model.invoke(QUESTION), joined(model, QUESTION)
    assert whole.text == streamed.text == ANSWER
    assert whole.usage_metadata is not None
    assert streamed.usage_metadata is not None
    for count in ("input_tokens", "output_tokens", "total_tokens"):
        assert streamed.usage_metadata[count] == whole.usage_metadata[count] > 0


async def test_the_asynchronous_form(server: ServerProcess, key: str) -> None:
    model = chat_openai(server, key)
    assert (await model.ainvoke(QUESTION)).text == ANSWER
    assert "".join([chunk.text async for chunk in model.astream(QUESTION)]) == ANSWER
    answers = await model.abatch([QUESTION] * 4)
    assert [answer.text for answer in answers] == [ANSWER] * 4


def test_a_completion(server: ServerProcess, key: str) -> None:
    model = OpenAI(base_url=f"{server.url}/v1", api_key=key, model=NAME, temperature=0, max_tokens=20)
    assert model.invoke(PROMPT) == "".join(model.stream(PROMPT)) == LABEL


@pytest.mark.parametrize("responses", [False, True])
def test_a_tool_is_called_and_the_talk_goes_on(server: ServerProcess, key: str, responses: bool) -> None:
    model = chat_openai(server, key, max_tokens=200, use_responses_api=responses)
    calling = model.bind_tools([WEATHER]).bind(extra_body=forced(CALL))
    whole = calling.invoke(QUESTION)
    streamed = joined(calling, QUESTION)
    for message in (whole, streamed):
        (call,) = message.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", CITY)
        assert not message.text
    (call,) = whole.tool_calls
    result = WEATHER.invoke(call)
    assert isinstance(result, ToolMessage)
    talk = [HumanMessage(QUESTION), whole, result]
    after = model.bind_tools([WEATHER]).bind(extra_body=forced("北京今天晴。")).invoke(talk)
    assert after.text == "北京今天晴。"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_is_parsed(server: ServerProcess, key: str, no_blanks: dict[str, int], method: Any) -> None:
    model = chat_openai(server, key, logit_bias=no_blanks, max_tokens=200)
    parsed = model.with_structured_output(Label, method=method, strict=True).invoke(QUESTION)
    assert isinstance(parsed, Label)


def test_errors_are_the_sdks(server: ServerProcess, key: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        chat_openai(server, "wrong").invoke(QUESTION)
    with pytest.raises(anthropic.AuthenticationError):
        chat_anthropic(server, "wrong").invoke(QUESTION)
    with pytest.raises(openai.NotFoundError, match="other"):
        chat_openai(server, key, model="other").invoke(QUESTION)
    with pytest.raises(openai.BadRequestError, match="512"):
        chat_openai(server, key, max_tokens=32_000).invoke(QUESTION)
    refusal_of(server, key, lambda: chat_openai(server, key).invoke(QUESTION), openai.RateLimitError)
    refusal_of(server, key, lambda: chat_anthropic(server, key).invoke(QUESTION), anthropic.RateLimitError)


def test_refusals_are_waited_out(server: ServerProcess, key: str) -> None:
    model = chat_openai(server, key, max_retries=2)
    assert through_a_full_queue(server, key, lambda: model.invoke(QUESTION).text).result == ANSWER
    spend(server, key)
    assert model.invoke(QUESTION).text == ANSWER


def test_a_stream_that_is_left_frees_the_slot(server: ServerProcess, key: str) -> None:
    model = chat_openai(server, key, max_tokens=LONG["max_tokens"], extra_body={"ignore_eos": True})
    stream = model.stream(QUESTION)
    next(stream)
    assert server.metrics()["requests"]["running"] == 1
    stream.close()
    server.until_requests(0, 0, 5)
