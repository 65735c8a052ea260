"""Every path of the specification, answered by the real application over HTTP."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio

from tests.unit.qwen_server.serving import Served, events_of, serve

CHAT = {
    "messages": [{"role": "user", "content": "请分类这条新闻：央行宣布降息25个基点"}],
    "max_tokens": 100,
    "temperature": 0.3,
}
COMPLETION = {"prompt": "请分类：苹果发布新款iPhone\n类别：", "max_tokens": 50, "temperature": 0.3}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


async def test_the_specifications_chat(served: Served) -> None:
    response = await served.client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    body = response.json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "qwen-news-classifier",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "这条新闻属于【财经】类别。"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 19, "completion_tokens": 13, "total_tokens": 32},
    }


async def test_the_specifications_completion(served: Served) -> None:
    response = await served.client.post("/v1/completions", json=COMPLETION)
    body = response.json()
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": "qwen-news-classifier",
        "choices": [{"index": 0, "text": "科技", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
    }


async def test_defaults_reach_the_engine_in_the_body(served: Served) -> None:
    await served.chat()
    await served.chat(max_tokens=None, temperature=None, top_p=None)
    for body in served.engine.bodies[-2:]:
        assert body["max_tokens"] == 100
        assert body["temperature"] == 0.7
        assert body["model"] == "qwen-news-classifier"
        assert "top_p" not in body


async def test_max_completion_tokens_takes_the_place_of_the_default(served: Served) -> None:
    response = await served.chat(max_completion_tokens=3)
    assert response.json()["usage"]["completion_tokens"] == 3
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert "max_tokens" not in served.engine.bodies[-1]


async def test_batches_and_n_number_their_choices(served: Served) -> None:
    response = await served.client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 2})
    assert [choice["index"] for choice in response.json()["choices"]] == [0, 1, 2, 3]
    assert response.json()["usage"]["completion_tokens"] == 8


async def test_prompts_of_token_ids_are_accepted(served: Served) -> None:
    for prompt in ([1, 2, 3], [[1, 2], [3]]):
        response = await served.client.post("/v1/completions", json={"prompt": prompt})
        assert response.json()["usage"]["prompt_tokens"] == 3


async def test_a_streamed_chat_carries_the_role_with_the_first_content(served: Served) -> None:
    response = await served.chat(stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "这"}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "这条新闻属于【财经】类别。"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 12 + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_streamed_completion_carries_text(served: Served) -> None:
    response = await served.client.post("/v1/completions", json={"prompt": "x", "stream": True})
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["科", "技"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


async def test_usage_comes_last_when_it_is_asked_for(served: Served) -> None:
    response = await served.chat(stream=True, stream_options={"include_usage": True})
    *_, usage, done = events_of(response.text)
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 13, "total_tokens": 15}
    assert done == "[DONE]"


async def test_each_choice_of_a_stream_has_its_own_role_and_end(served: Served) -> None:
    response = await served.chat(stream=True, n=3)
    choices = [chunk["choices"][0] for chunk in events_of(response.text)[:-1]]
    for index in range(3):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in own].count("stop") == 1


async def test_text_of_any_kind_survives_the_hand_made_json(served: Served) -> None:
    response = await served.chat(stream=True, user='"\\\n\u2028é😀')
    assert events_of(response.text)[-1] == "[DONE]"


async def test_logprobs_go_the_reference_way(served: Served) -> None:
    before = (await served.metrics())["tokens"]
    response = await served.chat(logprobs=True, top_logprobs=2)
    assert response.json()["choices"][0]["logprobs"] == {"content": []}
    after = (await served.metrics())["tokens"]
    assert after["total_input"] - before["total_input"] == 7
    assert after["total_output"] - before["total_output"] == 13


async def test_a_reference_stream_is_passed_on(served: Served) -> None:
    response = await served.chat(stream=True, logprobs=True)
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "这条新闻属于【财经】类别。"


async def test_models_are_listed_and_found_by_name(served: Served) -> None:
    body = (await served.client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [(card["id"], card["object"]) for card in body["data"]] == [("qwen-news-classifier", "model")]
    assert (await served.client.get("/v1/models/qwen-news-classifier")).json() == body["data"][0]
    assert (await served.client.get("/v1/models/gpt-4o")).status_code == 404


async def test_aliases_are_listed_after_the_model_and_name_it_as_their_parent() -> None:
    async with serve(model_aliases="gpt-5-codex,claude-*") as served:
        model, alias = (await served.client.get("/v1/models")).json()["data"]
        assert (model["id"], model["parent"]) == ("qwen-news-classifier", None)
        assert alias == model | {"id": "gpt-5-codex", "parent": "qwen-news-classifier"}
        assert (await served.client.get("/v1/models/gpt-5-codex")).json() == alias
        assert (await served.client.get("/v1/models/claude-haiku-4-5")).json()["id"] == "claude-haiku-4-5"
        assert (await served.client.get("/v1/models/gpt-4o")).status_code == 404
        for name in ("gpt-5-codex", "claude-haiku-4-5"):
            answer = (await served.chat(model=name)).json()
            assert answer["model"] == "qwen-news-classifier"
            assert served.engine.bodies[-1]["model"] == "qwen-news-classifier"


async def test_further_served_names_are_aliases() -> None:
    async with serve(served_model_name=["one", "two"]) as served:
        served.engine.info = replace(served.engine.info, served_name="one")
        cards = (await served.client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("one", None), ("two", "one")]
        assert (await served.chat(model="two")).json()["model"] == "one"


async def test_health_is_the_specifications(served: Served) -> None:
    response = await served.client.get("/health")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "gpu": {"allocated_gb": 0.0, "reserved_gb": 0.0, "free_gb": 0.0},
        "limits": {"max_concurrent_requests": 3, "max_queue_size": 10, "rate_limit": "无限制"},
    }


async def test_probes_agree_that_all_is_well(served: Served) -> None:
    for path in ("/health/live", "/health/ready", "/health/generate"):
        assert (await served.client.get(path)).status_code == 200


async def test_the_request_id_is_taken_when_safe_and_made_otherwise(served: Served) -> None:
    for given, taken in (("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)):
        response = await served.client.get("/health", headers={"X-Request-Id": given})
        assert (response.headers["x-request-id"] == given) is taken
        assert response.headers["x-request-id"]


async def test_server_timing_shows_where_the_time_went(served: Served) -> None:
    response = await served.chat('@{"first": 0.05, "delay": 0.01, "tokens": 6}')
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert float(timing["prefill"]) >= 50
    assert float(timing["decode"]) >= 50
    assert float(timing["queue"]) < 50


async def test_the_python_snippet_of_the_specification(served: Served) -> None:
    def classify(text: str) -> str:
        response = httpx.post(
            f"{served.url}/v1/chat/completions",
            json={
                "messages": [{"role": "user", "content": f"请分类：{text}"}],
                "max_tokens": 100,
                "temperature": 0.3,
            },
            trust_env=False,
        )
        return str(response.json()["choices"][0]["message"]["content"])

    assert await asyncio.to_thread(classify, "央行宣布降息25个基点") == "这条新闻属于【财经】类别。"
    metrics = await served.metrics()
    assert isinstance(metrics["slo"]["ttft"]["p95"], float)
    assert isinstance(metrics["slo"]["throughput"]["decoding_mean"], float)
    assert (await served.client.get("/health")).json()["status"] == "ok"


async def test_the_openapi_file_names_all_eight_paths(served: Served) -> None:
    paths = (await served.client.get("/openapi.json")).json()["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/health",
        "/stats",
        "/api/v1/metrics",
        "/metrics",
        "/metrics/prometheus",
    } <= set(paths)
