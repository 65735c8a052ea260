"""What `helm test` does, by its script: it asks the operator, then a QwenService that is there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .conftest import CHART

SCRIPT = CHART / "files" / "helm_test.py"
LIST = "/apis/qwen-vllm.io/v1alpha1/qwenservices"
Answer = tuple[int, Any]


class World:
    """An operator, an API server and QwenServices at one address, by their paths."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, str, str]] = []
        self.slow: set[str] = set()
        """Paths whose answer comes byte by byte."""
        self.answers: dict[str, Answer] = {path: (200, {}) for path in ("/healthz", "/readyz", "/metrics")}
        self.answers[LIST] = (200, {"items": []})

    def serve(self, name: str, status: int = 200, **spec: Any) -> None:
        """Adds a ready service that answers with this status."""
        service = {
            "metadata": {"namespace": "default", "name": name},
            "spec": spec,
            "status": {"url": f"{self.url}/{name}", "conditions": [{"type": "Ready", "status": "True"}]},
        }
        self.answers[LIST][1]["items"].append(service)
        answer = {"choices": [{"message": {"content": f"财经 ({name})"}}]}
        self.answers[f"/{name}/v1/chat/completions"] = (status, answer)

    def run(self, namespaces: str = "", account: Path = Path("/nonexistent")) -> subprocess.CompletedProcess[str]:
        """Runs the script as the pod does."""
        env = {
            **os.environ,
            "OPERATOR_URL": self.url,
            "API_URL": self.url,
            "WATCH_NAMESPACES": namespaces,
            "ACCOUNT_FOLDER": str(account),
            "PATIENCE_SECONDS": "2",
            "PYTHONIOENCODING": "utf-8",
            "no_proxy": "*",
        }
        return subprocess.run(
            [sys.executable, "-c", SCRIPT.read_text(encoding="utf-8")],
            env=env,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=30,
        )


@pytest.fixture
def world() -> Iterator[World]:
    found: list[World] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            path = self.path.partition("?")[0]
            body = self.rfile.read(length).decode()
            found[0].asked.append((path, body, self.headers.get("Authorization") or ""))
            if path in found[0].slow:
                self.drip()
                return
            status, content = found[0].answers.get(self.path) or found[0].answers.get(path, (404, {}))
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(60):
                    self.wfile.write(b" ")
                    time.sleep(0.1)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.append(World(f"http://127.0.0.1:{server.server_port}"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found[0]
        server.shutdown()


def test_a_service_that_is_there_is_asked_for_a_category(world: World) -> None:
    world.serve("news")
    result = world.run()
    assert result.returncode == 0, result.stderr
    assert "/readyz 200" in result.stdout
    assert "default/news answers: 财经 (news)" in result.stdout
    path, body, _ = world.asked[-1]
    assert path == "/news/v1/chat/completions"
    assert "央行宣布降息25个基点" in json.loads(body)["messages"][0]["content"]


def test_without_a_service_the_operator_is_enough(world: World) -> None:
    result = world.run()
    assert result.returncode == 0, result.stderr
    assert "no QwenService was asked" in result.stdout


def test_services_that_cannot_be_asked_are_passed_over(world: World) -> None:
    world.serve("keys", auth={"apiKeySecretRef": {"name": "keys"}})
    world.serve("closed", networkPolicy={"enabled": True})
    world.serve("loading")
    world.answers[LIST][1]["items"][-1]["status"]["conditions"][0]["status"] = "False"
    world.serve("hidden-key", 401)
    world.serve("busy", 503)
    world.serve("open", auth={}, networkPolicy={"enabled": False})
    result = world.run()
    assert result.returncode == 0, result.stderr
    asked = [path for path, _, _ in world.asked if path.endswith("/completions")]
    assert asked == [f"/{name}/v1/chat/completions" for name in ("hidden-key", "busy", "open")]
    assert "default/open answers" in result.stdout


def test_a_service_that_fails_is_named(world: World) -> None:
    world.serve("broken", 500)
    result = world.run()
    assert result.returncode == 1
    assert "default/broken answers 500" in result.stderr


def test_a_service_that_fails_does_not_fail_the_test_while_another_one_answers(world: World) -> None:
    """Else whoever may write QwenServices decides whether the release counts as failed."""
    world.serve("broken", 500)
    world.serve("no-chat")
    world.answers["/no-chat/v1/chat/completions"] = (200, ["something else"])
    world.serve("elsewhere")
    world.answers[LIST][1]["items"][-1]["status"]["url"] = "http://127.0.0.1:9/elsewhere"
    world.serve("open")
    result = world.run()
    assert result.returncode == 0, result.stderr
    for said in (
        "default/broken answers 500",
        "default/no-chat gives no answer of a chat",
        "default/elsewhere does not answer",
        "default/open answers",
    ):
        assert said in result.stdout


def test_a_service_that_answers_byte_by_byte_does_not_hold_up_the_test(world: World) -> None:
    world.serve("slow")
    world.slow.add("/slow/v1/chat/completions")
    world.serve("open")
    result = world.run()
    assert result.returncode == 0, result.stderr
    assert "default/slow does not answer" in result.stdout
    assert "it took longer than 2 s" in result.stdout
    assert "default/open answers" in result.stdout


def test_services_are_read_a_few_at_a_time(world: World) -> None:
    """Each of them may be as large as etcd allows, and the pod has 64 MiB."""
    world.serve("news")
    world.answers[f"{LIST}?limit=5"] = (200, {"items": [], "metadata": {"continue": "a b"}})
    world.answers[f"{LIST}?limit=5&continue=a+b"] = world.answers.pop(LIST)
    result = world.run()
    assert result.returncode == 0, result.stderr
    assert "default/news answers" in result.stdout


def test_a_service_is_not_asked_for_more_than_it_allows(world: World) -> None:
    world.serve("short", limits={"maxTokens": 16})
    assert world.run().returncode == 0
    assert json.loads(world.asked[-1][1])["max_tokens"] == 16


def test_an_operator_that_may_not_list_is_named(world: World) -> None:
    world.answers[LIST] = (403, {})
    result = world.run()
    assert result.returncode == 1
    assert "cannot list QwenServices" in result.stderr


def test_an_operator_that_does_not_answer_is_named(world: World) -> None:
    world.answers["/readyz"] = (503, {})
    result = world.run()
    assert result.returncode == 1
    assert f"{world.url} does not answer" in result.stderr


def test_an_operator_of_listed_namespaces_lists_them_with_its_token(world: World, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret", encoding="utf-8")
    for namespace in ("a", "b"):
        world.answers[f"/apis/qwen-vllm.io/v1alpha1/namespaces/{namespace}/qwenservices"] = (200, {"items": []})
    assert world.run("a,b", tmp_path).returncode == 0
    lists = [(path.split("/")[5], token) for path, _, token in world.asked if path.endswith("qwenservices")]
    assert lists == [("a", "Bearer secret"), ("b", "Bearer secret")]
