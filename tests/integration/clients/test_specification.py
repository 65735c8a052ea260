"""Every example of the API specification, run word for word and compared field by field."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from typing import Any

import httpx
import pytest

from qwen_server.api.openapi import specification as spec
from tests.integration.server_process import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

HOST = "http://10.9.3.131:8000"  # of the specification
CATEGORIES = "财经|房产|股票|教育|科技|社会|时政|体育|游戏|娱乐"
# Fields whose values hold for every server, and patterns for those that differ.
EQUAL = {
    "chat": ("object", "model", "choices.0.index", "choices.0.message.role", "choices.0.finish_reason"),
    "completion": ("object", "model", "choices.0.text", "choices.0.index", "choices.0.finish_reason"),
    "health": ("status", "limits.max_concurrent_requests", "limits.max_queue_size", "limits.rate_limit"),
    "metrics": (
        *("service", "status", "slo.ttft.unit", "slo.throughput.unit", "latency.unit", "errors", "alerts"),
        *("alerts_count", "requests.waiting", "requests.running", "requests.success_rate_percent"),
    ),
}
FORMS = {
    "id": r"(chatcmpl|cmpl)-\w+",
    "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}",
    "version": r"\d+\.\d+\.\d+\w*",
    "uptime.human": r"\d+h \d{1,2}m",
    "choices.0.message.content": rf"这条新闻属于【({CATEGORIES})】类别。",
}


def bash(server: ServerProcess, command: str) -> str:
    """Runs a command of the specification against the server. Returns its output."""
    script = command.replace(HOST, server.url)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, env=plain())
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain() -> dict[str, str]:
    return {**os.environ, "no_proxy": "*", "NO_PROXY": "*", "PYTHONIOENCODING": "utf-8"}


def differences(example: Any, actual: Any, place: str = "") -> list[str]:
    """Where fields or types of `actual` differ from `example`; extra fields may be null."""
    if type(example) is not type(actual):
        return [f"{place}: {type(actual).__name__} {actual!r}, not {type(example).__name__}"]
    if isinstance(example, dict):
        added = [name for name in actual if name not in example and actual[name] is not None]
        missing = [name for name in example if name not in actual]
        found = [f"{place}: {name} is too many" for name in added] + [f"{place}: no {name}" for name in missing]
        both = [name for name in example if name in actual]
        return found + [line for name in both for line in differences(example[name], actual[name], f"{place}.{name}")]
    if isinstance(example, list) and example:
        if len(example) != len(actual):
            return [f"{place}: {len(actual)} entries, not {len(example)}"]
        pairs = enumerate(zip(example, actual, strict=True))
        return [line for index, (a, b) in pairs for line in differences(a, b, f"{place}.{index}")]
    return []


def as_specified(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics without what docs/api.md names beyond the specification."""
    requests = {name: count for name, count in metrics["requests"].items() if name not in ("aborted", "refused")}
    return {name: value for name, value in metrics.items() if name != "engine"} | {"requests": requests}


def at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


@pytest.fixture(scope="module", autouse=True)
def three_requests(http: httpx.Client) -> None:
    """Three requests, so that no percentile is empty, as in the example."""
    for _ in range(3):
        body = {"messages": [{"role": "user", "content": "请分类：苹果发布新款iPhone"}]}
        assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("name", "command", "example"),
    [
        ("chat", spec.CHAT_COMMAND, spec.CHAT_ANSWER),
        ("completion", spec.COMPLETION_COMMAND, spec.COMPLETION_ANSWER),
        ("health", spec.HEALTH_COMMAND, spec.HEALTH_ANSWER),
        ("metrics", spec.METRICS_COMMAND, spec.METRICS_ANSWER),
    ],
)
def test_a_command_is_answered_as_shown(server: ServerProcess, name: str, command: str, example: str) -> None:
    shown, answer = json.loads(example), json.loads(bash(server, command))
    if name == "metrics":
        answer = as_specified(answer)
    assert differences(shown, answer) == []
    assert {path: at(answer, path) for path in EQUAL[name]} == {path: at(shown, path) for path in EQUAL[name]}
    for path, form in FORMS.items():
        if path.split(".", maxsplit=1)[0] in shown and name in {"chat", "completion", "metrics"}:
            if path.startswith("choices") and name != "chat":
                continue
            assert re.fullmatch(form, at(answer, path)), path
    if name == "metrics":
        assert list(answer) == list(shown)
        assert {part: list(answer[part]) for part in ("requests", "slo", "latency_histogram")} == {
            part: list(shown[part]) for part in ("requests", "slo", "latency_histogram")
        }
        assert answer["slo"]["sample_size"] <= sum(answer["latency_histogram"].values())
    if "usage" in answer:
        assert answer["usage"]["total_tokens"] == sum(answer["usage"].values()) / 2


def test_an_answer_counts_once_in_each_sum(http: httpx.Client) -> None:
    """Other tests use the same server, and not all of their requests were answered."""

    def sums() -> list[int]:
        metrics = http.get("/api/v1/metrics").json()
        requests, histogram = metrics["requests"], metrics["latency_histogram"]
        return [requests["total"], requests["successful"], sum(histogram.values())]

    before = sums()
    assert http.post("/v1/completions", json={"prompt": "体育", "max_tokens": 1}).status_code == 200
    assert [after - old for after, old in zip(sums(), before, strict=True)] == [1, 1, 1]


@pytest.mark.parametrize("path", ["/stats", "/metrics"])
def test_the_other_paths_of_the_overview_give_the_same(server: ServerProcess, http: httpx.Client, path: str) -> None:
    """curl accepts any media type."""
    answer = json.loads(bash(server, f"curl {HOST}{path}"))
    assert differences(json.loads(spec.METRICS_ANSWER), as_specified(answer)) == []
    assert http.get(path).json().keys() == answer.keys()


def test_the_list_of_models_of_the_overview(server: ServerProcess) -> None:
    answer = json.loads(bash(server, f"curl {HOST}/v1/models"))
    assert (answer["object"], [model["id"] for model in answer["data"]]) == ("list", ["qwen-news-classifier"])


def test_the_lines_for_prometheus_are_as_shown(server: ServerProcess) -> None:
    page = bash(server, spec.PROMETHEUS_COMMAND).splitlines()
    for line in filter(None, spec.PROMETHEUS_ANSWER.splitlines()):
        if line.startswith("#"):
            assert page.count(line) == 1, line
            continue
        name = line.split()[0]
        (sample,) = (found for found in page if found.split()[:1] == [name])
        assert float(sample.split()[1]) >= 0
        here = page.index(sample)
        assert [text.split()[1] for text in page[here - 2 : here]] == ["HELP", "TYPE"]


def test_the_python_example_prints_what_it_should(server: ServerProcess) -> None:
    script = spec.PYTHON_EXAMPLE.replace(HOST, server.url)
    assert script != spec.PYTHON_EXAMPLE
    done = subprocess.run(
        [sys.executable, "-c", script + "print(health_check())\n"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=plain(),
    )
    assert done.returncode == 0, done.stderr
    answer, ttft, throughput, healthy = done.stdout.splitlines()
    assert re.fullmatch(FORMS["choices.0.message.content"], answer)
    assert float(re.fullmatch(r"TTFT P95: (\d+\.\d+)s", ttft)[1]) > 0  # type: ignore[index]
    assert float(re.fullmatch(r"吞吐量: (\d+\.\d+) tok/s", throughput)[1]) > 0  # type: ignore[index]
    assert healthy == "True"


async def test_a_full_queue_is_refused_as_shown(server: ServerProcess) -> None:
    """Twenty requests at once: three run and ten wait."""
    long = {"prompt": "请分类：", "max_tokens": 512, "ignore_eos": True, "stream": True}
    refused: list[httpx.Response] = []
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        open_ones = {asyncio.create_task(client.post("/v1/completions", json=long)) for _ in range(20)}
        while not refused:
            done, open_ones = await asyncio.wait(open_ones, return_when=asyncio.FIRST_COMPLETED)
            refused += [task.result() for task in done if task.result().status_code != 200]
        for task in open_ones:
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
    server.until_requests(0, 0)  # so that the next test has room
    for response in refused:
        assert response.status_code == 503
        assert response.json() == json.loads(spec.QUEUE_FULL_ANSWER)
        assert 1 <= int(response.headers["retry-after"]) <= 30
