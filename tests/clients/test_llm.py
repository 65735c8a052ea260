"""The command `llm`, whose models of other servers are declared in extra-openai-models.yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.overload import spend
from tests.clients.programs import run
from tests.clients.questions import ANSWER, LABEL, NAME, PROMPT, QUESTION
from tests.integration.server_process import ServerProcess

MODELS = """\
- model_id: qwen
  model_name: {name}
  api_base: {url}/v1
  api_key_name: qwen
  supports_schema: true
  supports_tools: true
- model_id: qwen-text
  model_name: {name}
  api_base: {url}/v1
  api_key_name: qwen
  completion: true
"""
SCHEMA = {
    "type": "object",
    "properties": {"category": {"enum": ["财经", "体育"]}},
    "required": ["category"],
    "additionalProperties": False,
}
FUNCTION = '''
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "晴"
'''


class Command:
    """`llm` with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        return run("llm", *arguments, folder=self._folder, fails=fails, LLM_USER_PATH=str(self._folder)).strip()


@pytest.fixture
def llm(server: ServerProcess, key: str, tmp_path: Path) -> Command:
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(name=NAME, url=server.url))
    command = Command(tmp_path)
    command("keys", "set", "qwen", "--value", key)
    return command


def test_an_answer_streamed_and_not(llm: Command) -> None:
    exact = ("-m", "qwen", "-o", "temperature", "0", QUESTION)
    assert llm(*exact) == llm("--no-stream", *exact) == ANSWER
    logged = json.loads(llm("logs", "-n", "2", "--json"))
    assert [entry["response"] for entry in logged] == [ANSWER, ANSWER]
    assert len({(entry["input_tokens"], entry["output_tokens"]) for entry in logged}) == 1
    assert logged[0]["output_tokens"] > 0


def test_a_conversation_goes_on(llm: Command) -> None:
    llm("-m", "qwen", "-o", "temperature", "0", QUESTION)
    llm("--continue", QUESTION)
    first, second = sorted(entry["input_tokens"] for entry in json.loads(llm("logs", "-n", "2", "--json")))
    assert second > 2 * first


def test_a_completion(llm: Command) -> None:
    assert llm("-m", "qwen-text", "-o", "temperature", "0", PROMPT) == LABEL


def test_an_answer_after_a_schema(llm: Command, no_blanks: dict[str, int]) -> None:
    answer = llm("-m", "qwen", "--schema", json.dumps(SCHEMA), "-o", "logit_bias", json.dumps(no_blanks), QUESTION)
    assert json.loads(answer)["category"] in {"财经", "体育"}


def test_tools_reach_the_model(llm: Command) -> None:
    """This model answers without a call."""
    assert llm("-m", "qwen", "--functions", FUNCTION, "-o", "temperature", "0", QUESTION)
    llm("-m", "qwen", "-o", "temperature", "0", QUESTION)
    counts = [entry["input_tokens"] for entry in json.loads(llm("logs", "-n", "2", "--json"))]
    assert abs(counts[0] - counts[1]) > 30


def test_errors_say_what_is_wrong(llm: Command) -> None:
    assert "512" in llm("-m", "qwen", "-o", "max_tokens", "32000", QUESTION, fails=True)
    assert "401" in llm("-m", "qwen", "--key", "wrong", QUESTION, fails=True)


def test_a_rate_limit_is_waited_out(server: ServerProcess, key: str, llm: Command) -> None:
    spend(server, key)
    assert llm("-m", "qwen", "-o", "temperature", "0", QUESTION) == ANSWER
