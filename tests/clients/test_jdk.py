"""The JDK's HttpClient, which LangChain4j and Spring AI use: it offers HTTP/2 with each request."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients.keys import new_key
from tests.clients.questions import ANSWER, NAME, QUESTION
from tests.integration.server_process import ServerProcess

PROGRAM = Path(__file__).with_name("JdkClient.java")
CHAT = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}


class Answer(NamedTuple):
    """A response as the program printed it."""

    status: int
    version: str
    body: str

    @property
    def content(self) -> str:
        return str(json.loads(self.body)["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def answers(server: ServerProcess) -> dict[str, list[Answer]]:
    java = shutil.which("java")
    assert java, "java is not installed: run `make test-full`"
    # Compiles the file in memory.
    command = [java, str(PROGRAM), server.url, new_key(), json.dumps(CHAT, ensure_ascii=True)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Answer]] = defaultdict(list)
    for line in done.stdout.splitlines():
        name, status, version, body = line.split("\t")
        found[name].append(Answer(int(status), version, base64.b64decode(body).decode()))
    return found


@pytest.mark.parametrize(
    ("name", "count"), [("first", 1), ("again", 1), ("chunked", 1), ("continue", 1), ("large", 1), ("at once", 4)]
)
def test_a_chat_is_answered_once_over_http_1(answers: dict[str, list[Answer]], name: str, count: int) -> None:
    found = answers[name]
    assert [(answer.status, answer.version) for answer in found] == [(200, "HTTP_1_1")] * count, found
    assert {answer.content for answer in found} == {ANSWER}


def test_the_models_are_listed(answers: dict[str, list[Answer]]) -> None:
    (answer,) = answers["models"]
    assert (answer.status, [model["id"] for model in json.loads(answer.body)["data"]]) == (200, [NAME])


def test_what_is_wrong_is_named(answers: dict[str, list[Answer]]) -> None:
    (answer,) = answers["wrong"]
    assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, "messages")


def test_a_stream_is_read_line_by_line(answers: dict[str, list[Answer]]) -> None:
    (answer,) = answers["stream"]
    assert (answer.status, answer.version) == (200, "HTTP_1_1")
    lines = [line.removeprefix("data: ") for line in answer.body.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks: list[dict[str, Any]] = [json.loads(line) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == ANSWER
