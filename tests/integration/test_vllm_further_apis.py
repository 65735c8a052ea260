"""The other APIs on one real server: official SDKs, consistent numbers, and bad input."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.cluster.settings import ROOT
from tests.e2e.guide_blocks import blocks, steps
from tests.integration.builtin_model import ANSWER, FOLDER, NAME, QUESTION
from tests.integration.server_process import ServerProcess, ready_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

TALK: list[anthropic.types.MessageParam] = [{"role": "user", "content": QUESTION}]
TEXT = {"type": "input_text", "text": "x"}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAwS2OUAAAAABJRU5ErkJggg"
    "=="
)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}, IMAGE]}
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
ADDED = {"type": "additional_tools", "role": "developer", "tools": [WEATHER]}
TOO_LONG = "央行宣布降息" * 3000
CONTEXT = 512
REACHED = openai.types.responses.response.IncompleteDetails(reason="max_output_tokens")
EXACT = {"temperature": 0}  # the SDK has no parameter of that name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with all that settings add to the API, and an administrator."""
    keys = tmp_path_factory.mktemp("admins")
    (keys / "ops").write_text("root\n")
    template = tmp_path_factory.mktemp("template") / "begin.jinja"
    own_template = (FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    [line] = re.findall(r"```jinja\n(.*)\n```", (ROOT / "docs" / "administration.md").read_text(encoding="utf-8"))
    template.write_text(own_template + line, encoding="utf-8")
    own = ["--enable-prompt-tokens-details", "--enable-tokenizer-info-endpoint", f"--admin-api-keys-dir={keys}"]
    own.append(f"--chat-template={template}")
    folder = tmp_path_factory.mktemp("server")
    with ready_server(folder, f"--max-model-len={CONTEXT}", *own, "--", "--max-num-seqs=32") as process:
        yield process


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def prompt_tokens(http: httpx.Client) -> int:
    chat = post(http, "/v1/chat/completions", messages=TALK, temperature=0)
    return int(chat["usage"]["prompt_tokens"])


def test_a_response_by_the_sdk(sdk: openai.OpenAI, http: httpx.Client) -> None:
    response = sdk.responses.create(model=NAME, input=QUESTION, temperature=0)
    assert (response.output_text, response.status) == (ANSWER, "completed")
    assert response.id.startswith("resp_")
    assert response.usage is not None
    assert response.usage.input_tokens == prompt_tokens(http)
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.max_output_tokens == 100
    conversation = sdk.responses.create(
        model=NAME,
        instructions="你是新闻分类助手。",
        input=[{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
        max_output_tokens=2,
    )
    assert conversation.status == "incomplete"
    assert conversation.incomplete_details is not None
    assert conversation.incomplete_details.reason == "max_output_tokens"


def test_a_conversation_goes_on_with_what_was_answered(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model=NAME, input=QUESTION, temperature=0)
    turns: list[Any] = [{"role": "user", "content": QUESTION}, *first.output]
    second = sdk.responses.create(model=NAME, input=[*turns, {"role": "user", "content": QUESTION}], temperature=0)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens


def test_a_streamed_response_says_the_same(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model=NAME, input=QUESTION, temperature=0, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == ANSWER
    assert last.response.usage is not None


def test_a_cut_response_ends_with_an_event_of_its_own(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model=NAME, input=QUESTION, max_output_tokens=2, temperature=0) as stream:
        events = list(stream)
    last = events[-1]
    assert last.type == "response.incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (last.response.status, last.response.incomplete_details) == ("incomplete", REACHED)
    whole = sdk.responses.create(model=NAME, input=QUESTION, max_output_tokens=2, temperature=0)
    assert (whole.output_text, whole.incomplete_details) == (last.response.output_text, REACHED)


def test_a_response_in_json(http: httpx.Client) -> None:
    text = {"format": {"type": "json_schema", "name": "label", "schema": {"enum": ["体育"]}}}
    body = post(http, "/v1/responses", input=QUESTION, text=text, temperature=0)
    assert json.loads(body["output"][0]["content"][0]["text"]) == "体育"


def test_a_message_by_the_sdk(anthropic_sdk: anthropic.Anthropic, http: httpx.Client) -> None:
    message = anthropic_sdk.messages.create(model=NAME, max_tokens=30, messages=TALK, extra_body=EXACT)
    assert [block.text for block in message.content if block.type == "text"] == [ANSWER]
    assert (message.role, message.stop_reason, message.stop_sequence) == ("assistant", "end_turn", None)
    assert message.id.startswith("msg_")
    # The API counts cached tokens apart. A GPU caches blocks that are shorter than this prompt.
    length = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert length == prompt_tokens(http)
    assert anthropic_sdk.messages.count_tokens(model=NAME, messages=TALK).input_tokens == length
    stopped = anthropic_sdk.messages.create(
        model=NAME, max_tokens=30, messages=TALK, extra_body=EXACT, stop_sequences=["财"]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "财")
    short = anthropic_sdk.messages.create(model=NAME, max_tokens=2, messages=TALK, thinking={"type": "disabled"})
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
    assert [block.type for block in short.content] == ["text"]


def test_a_streamed_message_says_the_same(anthropic_sdk: anthropic.Anthropic) -> None:
    with anthropic_sdk.messages.stream(model=NAME, max_tokens=30, messages=TALK, extra_body=EXACT) as stream:
        assert "".join(stream.text_stream) == ANSWER
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn"
    assert message.id.startswith("msg_")
    kinds = [
        event.type for event in anthropic_sdk.messages.create(model=NAME, max_tokens=3, messages=TALK, stream=True)
    ]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_tokens_there_and_back(http: httpx.Client) -> None:
    tokens = post(http, "/tokenize", prompt=QUESTION, return_token_strs=True)
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["max_model_len"] == CONTEXT
    assert post(http, "/detokenize", tokens=tokens["tokens"])["prompt"] == QUESTION
    assert post(http, "/tokenize", messages=TALK)["count"] == prompt_tokens(http)
    completion = post(http, "/v1/completions", prompt=QUESTION, max_tokens=1)
    assert completion["usage"]["prompt_tokens"] == tokens["count"]
    assert post(http, "/tokenize", prompt=TOO_LONG)["count"] > CONTEXT


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/responses", {"input": TOO_LONG}, "input"),
        ("/v1/responses", {"input": TOO_LONG, "stream": True}, "input"),
        ("/v1/responses", {"input": [{"type": "unheard_of"}]}, "input[0]"),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": "x"}, {"role": "nobody", "content": "x"}]},
            "input[1]",
        ),
        (
            "/v1/responses",
            {"input": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "x"}]}]},
            "input",
        ),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        (
            "/v1/responses",
            {
                "input": [
                    {"type": "reasoning", "summary": [], "encrypted_content": "x"},
                    {"role": "user", "content": "x"},
                ]
            },
            "input[0].encrypted_content",
        ),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [TEXT, {"type": "input_image", "image_url": PIXEL}]}]},
            "input[0].content[1]",
        ),
        ("/v1/responses", {"input": "x", "tools": [WEATHER]}, "tools"),
        ("/v1/responses", {"input": [ADDED, {"role": "user", "content": "x"}], "stream": True}, "tools"),
        ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        (
            "/v1/responses",
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "bogus"}}}},
            "text",
        ),
        ("/v1/responses", {"input": "x", "tool_choice": "required"}, "tool_choice"),
        ("/v1/responses", {"input": "x", "reasoning": {"effort": 5}}, "reasoning.effort"),
        ("/v1/responses", {"input": "x", "logit_bias": {"999999": 1}, "stream": True}, "logit_bias"),
        ("/v1/messages", {"messages": [{"role": "user", "content": TOO_LONG}], "max_tokens": 1}, "messages"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": TOO_LONG}], "max_tokens": 1, "stream": True},
            "messages",
        ),
        ("/v1/messages", {"messages": [{"role": "nobody", "content": "x"}], "max_tokens": 1}, "messages[0].role"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [{"type": "x"}]}], "max_tokens": 1},
            "messages[0].content[0].type",
        ),
        (
            "/v1/messages",
            {"messages": [*TALK, {"role": "user", "content": [RESULT]}], "max_tokens": 1, "stream": True},
            "messages[1].content[0].content[1]",
        ),
        ("/v1/messages", {"messages": TALK, "max_tokens": 1, "tools": [{"name": "f", "input_schema": {}}]}, "tools"),
        ("/v1/messages", {"messages": TALK, "max_tokens": 1, "thinking": {"type": "x"}}, "thinking"),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": TOO_LONG}]}, "messages"),
        ("/tokenize", {"messages": TALK, "tools": [5]}, "tools[0]"),
        ("/tokenize", {"messages": TALK, "chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs"),
        ("/detokenize", {"tokens": [1, 999999]}, "tokens"),
    ],
)
def test_bad_input_is_refused_by_name(http: httpx.Client, path: str, body: dict[str, Any], named: str) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    if path.startswith("/v1/messages"):
        assert named in error["message"]
    else:
        assert error["param"] == named


def test_a_flood_of_wrong_items_is_refused_at_once(http: httpx.Client) -> None:
    # vLLM's own model takes half a minute to list all errors.
    began = time.monotonic()
    response = http.post("/v1/responses", json={"input": [{"type": "unheard_of"}] * 4096})
    assert response.status_code == 400
    assert time.monotonic() - began < 5


def test_what_is_counted_is_what_was_sent(server: ServerProcess, http: httpx.Client) -> None:
    before = server.metrics()
    response = post(http, "/v1/responses", input=QUESTION, temperature=0)
    message = post(http, "/v1/messages", messages=TALK, max_tokens=30, temperature=0)
    post(http, "/tokenize", prompt=QUESTION)
    after = server.metrics()
    total = response["usage"]["input_tokens"] + message["usage"]["input_tokens"]
    total += message["usage"].get("cache_read_input_tokens") or 0
    assert after["tokens"]["total_input"] - before["tokens"]["total_input"] == total
    total = response["usage"]["output_tokens"] + message["usage"]["output_tokens"]
    assert after["tokens"]["total_output"] - before["tokens"]["total_output"] == total
    assert after["requests"]["successful"] - before["requests"]["successful"] == 3
    assert after["slo"]["sample_size"] - before["slo"]["sample_size"] == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": QUESTION, "ignore_eos": True, "max_output_tokens": 400}),
        ("/v1/messages", {"messages": TALK, "max_tokens": 400, "chat_template_kwargs": {}}),
    ],
)
def test_a_client_that_goes_away_leaves_nothing_running(
    server: ServerProcess, http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    with http.stream("POST", path, json=body | {"stream": True}) as response:
        assert next(response.iter_lines()).startswith("event: ")
    server.until(lambda: server.metrics()["requests"]["running"] == 0, 10, "the slot is free")
    server.until(lambda: server.engine_metric("vllm:num_requests_running") == 0, 10, "the engine is idle")


def cached_in(usage: dict[str, Any]) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def streamed_usage(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = http.post(path, json=body | {"stream": True, "stream_options": {"include_usage": True}})
    events = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: {")]
    usage: dict[str, Any] = json.loads(events[-1])["usage"]
    return usage


def test_every_api_tells_how_many_tokens_were_cached(http: httpx.Client) -> None:
    talk = [{"role": "user", "content": "央行宣布降息25个基点。" * 24}]
    chat = {"messages": talk, "temperature": 0.5, "max_tokens": 2}
    assert cached_in(post(http, "/v1/chat/completions", **chat)["usage"]) == 0
    usage = post(http, "/v1/chat/completions", **chat)["usage"]
    cached = cached_in(usage)
    assert 0 < cached < usage["prompt_tokens"]
    for fields in ({"n": 2}, {"logprobs": True}, {"logprobs": True, "n": 2}):
        assert cached_in(post(http, "/v1/chat/completions", **chat, **fields)["usage"]) == cached, fields
        assert cached_in(streamed_usage(http, "/v1/chat/completions", **chat, **fields)) == cached, fields
    response = post(http, "/v1/responses", input=talk, temperature=0, max_output_tokens=2)
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == cached
    message = post(http, "/v1/messages", **chat)
    assert message["usage"]["cache_read_input_tokens"] == cached
    assert message["usage"]["input_tokens"] == usage["prompt_tokens"] - cached


def test_the_cached_tokens_of_all_prompts_count(http: httpx.Client) -> None:
    prompts = ["央行宣布降息25个基点。" * 24, "x", "国家队夺得冠军。" * 40]
    body = {"prompt": prompts, "temperature": 0.5, "max_tokens": 1}
    post(http, "/v1/completions", **body)
    cached = cached_in(post(http, "/v1/completions", **body)["usage"])
    alone = [cached_in(post(http, "/v1/completions", **body | {"prompt": prompt})["usage"]) for prompt in prompts]
    assert cached == sum(alone) > max(alone)
    for fields in ({"logprobs": 0}, {"n": 2}):
        assert cached_in(post(http, "/v1/completions", **body, **fields)["usage"]) == cached, fields
        assert cached_in(streamed_usage(http, "/v1/completions", **body, **fields)) == cached, fields


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_repeats_itself_ends(http: httpx.Client, reference: bool, stream: bool) -> None:
    detection = {"max_pattern_size": 1, "min_count": 4}
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 50, "allowed_token_ids": [100], "stream": stream}
    body |= {"repetition_detection": detection, "stream_options": {"include_usage": True}}
    for path, fields in (
        ("/v1/chat/completions", {"messages": TALK} | ({"logprobs": True} if reference else {})),
        ("/v1/completions", {"prompt": QUESTION} | ({"logprobs": 0} if reference else {})),
    ):
        response = http.post(path, json=body | fields)
        assert response.status_code == 200, response.text
        events = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: {")]
        answers = [json.loads(event) for event in events] if stream else [response.json()]
        assert answers[-1]["usage"]["completion_tokens"] == 4
        ends = [choice for answer in answers for choice in answer["choices"] if choice["finish_reason"] is not None]
        assert [(end["finish_reason"], end["stop_reason"]) for end in ends] == [("stop", "repetition_detected")]


def test_an_administrator_empties_the_prefix_cache(http: httpx.Client) -> None:
    body = {"prompt": "国家队夺得冠军。" * 40, "max_tokens": 1}
    post(http, "/v1/completions", **body)
    assert cached_in(post(http, "/v1/completions", **body)["usage"]) > 0
    assert http.post("/reset_prefix_cache").status_code == 401
    assert http.post("/reset_prefix_cache", headers={"x-api-key": "root"}).json() == {"success": True}
    assert cached_in(post(http, "/v1/completions", **body)["usage"]) == 0


def test_an_engine_sleeps_and_wakes_up(server: ServerProcess, http: httpx.Client) -> None:
    admin = {"x-api-key": "root"}
    refused = http.post("/sleep", headers=admin)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "sleep_mode_off")  # it runs on a CPU
    assert http.post("/sleep?level=0", headers=admin).json() == {"status": "sleeping", "level": 0}
    try:
        assert http.get("/is_sleeping", headers=admin).json() == {"is_sleeping": True}
        assert (http.get("/health").json()["status"], server.status("/health/live")) == ("sleeping", 200)
        assert http.post("/v1/completions", json={"prompt": "x"}).status_code == 503
        assert http.get("/health/generate").status_code == 503
    finally:
        assert http.post("/wake_up", headers=admin).json() == {"status": "awake", "tags": None}
    assert (
        post(http, "/v1/chat/completions", messages=TALK, temperature=0)["choices"][0]["message"]["content"] == ANSWER
    )
    assert server.status("/health/generate") == 200
    assert server.metrics()["alerts"] == []


@pytest.mark.parametrize("fields", [{}, {"logprobs": True}])
def test_a_chat_template_of_ones_own_is_used(http: httpx.Client, fields: dict[str, Any]) -> None:
    """The server's template is the model's, with the argument of docs/administration.md."""
    begun = {"messages": TALK, "chat_template_kwargs": {"begin": "央行宣布降息"}}
    tokens = post(http, "/tokenize", **begun)["count"]
    assert tokens > post(http, "/tokenize", messages=TALK)["count"]
    assert post(http, "/v1/chat/completions", **begun, **fields)["usage"]["prompt_tokens"] == tokens
    assert "begin is defined" in http.get("/tokenizer_info").json()["chat_template"]


def test_what_vllms_server_also_tells(http: httpx.Client) -> None:
    assert http.get("/version").json()["version"].startswith("0.")
    assert http.get("/load").json() == {"server_load": 0}
    assert (http.get("/ping").status_code, http.post("/ping").status_code) == (200, 200)
    assert "Tokenizer" in http.get("/tokenizer_info").json()["tokenizer_class"]


@pytest.mark.parametrize("page", ["api.md", "api.zh-CN.md", "administration.md"])
def test_the_examples_of_the_pages_print_what_is_shown(server: ServerProcess, page: str) -> None:
    own = [block for block in blocks(f"docs/{page}") if block.note.startswith("tests/integration/test_vllm_further")]
    found = [step for block in own for step in steps(block)]
    assert len(found) == 2
    for step in found:
        script = step.command.replace("http://localhost:8000", server.url)
        for _ in range(2):  # one of them is about a second time
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert without_version(done.stdout.strip()) == without_version(step.shown.strip()), step.command


def without_version(text: str) -> str:
    return re.sub(r'"version":"0[^"]+"', '"version"', text)


def test_the_log_holds_no_traceback(server: ServerProcess) -> None:
    assert not [line for line in server.lines if "Traceback" in line]
