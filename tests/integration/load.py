"""A load client as a separate process on raw sockets, so that only the server is measured.

`python -m tests.integration.load` reads a Plan as JSON from standard input. Each connection is kept
alive and sends one request after another. At the end the process prints one line of JSON per
answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from tests.cluster.settings import ROOT


@dataclass(frozen=True)
class Request:
    """One HTTP request; a body makes it a POST, and `key` is its API key."""

    path: str
    body: dict[str, Any] | None = None
    key: str | None = None


@dataclass(frozen=True)
class Plan:
    """`connections` send `requests` in turn and pause `pause` seconds after each one.

    They stop after `count` requests in all, or after `seconds`.
    """

    port: int
    requests: Sequence[Request]
    connections: int = 1
    count: int | None = None
    seconds: float | None = None
    pause: float = 0.0


@dataclass
class Answer:
    """What a client saw. `sent` is a monotonic time; the other times are seconds since then.

    `ttft` is the time of a stream's first event; `completion_tokens` comes from the usage.
    """

    path: str
    sent: float
    status: int = 0
    latency: float = 0.0
    ttft: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    complete: bool = False
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def decoding(self) -> float:
        """Tokens per second after the first one."""
        assert self.ttft is not None
        return (self.completion_tokens - 1) / (self.latency - self.ttft)


class Load:
    """`with Load(plan) as load`: the client runs in the block; `answers()` waits for its end.

    With `held`, the process is there, but sends nothing before `begin`.
    """

    def __init__(self, plan: Plan, *, held: bool = False) -> None:
        self._plan = plan
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if not held:
            self.begin()

    def begin(self) -> None:
        """Lets the client send."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(self._plan)))
        self._process.stdin.close()
        self._process.stdin = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def running(self) -> bool:
        """Whether the client still sends."""
        return self._process.poll() is None

    def answers(self, seconds: float = 120) -> list[Answer]:
        """All answers in the order in which they ended."""
        output, _ = self._process.communicate(timeout=seconds)
        assert self._process.returncode == 0
        return [Answer(**json.loads(line)) for line in output.splitlines()]


def measured(plan: Plan, seconds: float = 120) -> list[Answer]:
    """Runs a plan to its end."""
    with Load(plan) as load:
        return load.answers(seconds)


class _Connection:
    """One connection; it reconnects if the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, head: bytes, path: str) -> Answer:
        answer = Answer(path, time.monotonic())
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
                answer.sent = time.monotonic()  # connecting does not count
            reader, writer = self._streams
            writer.write(head)
            await self._read(reader, answer)
        except (OSError, EOFError, ValueError) as error:
            answer.error = repr(error)
        answer.latency = time.monotonic() - answer.sent
        if answer.error or answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _read(self, reader: asyncio.StreamReader, answer: Answer) -> None:
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        answer.status = int(status.split()[1])
        answer.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if "content-length" in answer.headers:
            body = await reader.readexactly(int(answer.headers["content-length"]))
            answer.complete = True
            if answer.status == 200:
                _count(answer, json.loads(body).get("usage"))
            return
        while size := int(await reader.readline(), 16):
            chunk = await reader.readexactly(size + 2)
            if answer.ttft is None and chunk.startswith(b"data:"):
                answer.ttft = time.monotonic() - answer.sent
            if b"[DONE]" in chunk or b'"usage":{' in chunk:
                _read_end(answer, chunk)
        await reader.readline()


def _read_end(answer: Answer, chunk: bytes) -> None:
    for event in chunk.decode().split("\n\n"):
        data = event.strip().removeprefix("data: ")
        if data == "[DONE]":
            answer.complete = True
        elif data:
            _count(answer, json.loads(data).get("usage"))


def _count(answer: Answer, usage: dict[str, int] | None) -> None:
    if usage:
        answer.prompt_tokens, answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]


def _head(port: int, request: dict[str, Any]) -> bytes:
    body = b"" if request["body"] is None else json.dumps(request["body"]).encode()
    method = "GET" if request["body"] is None else "POST"
    lines = [f"{method} {request['path']} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    if request["key"] is not None:
        lines.append(f"Authorization: Bearer {request['key']}")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


async def _run(plan: dict[str, Any]) -> list[Answer]:
    heads = [(_head(plan["port"], request), request["path"]) for request in plan["requests"]]
    numbers = itertools.count() if plan["count"] is None else iter(range(plan["count"]))
    end = float("inf") if plan["seconds"] is None else time.monotonic() + plan["seconds"]
    answers: list[Answer] = []

    async def work() -> None:
        connection = _Connection(plan["port"])
        while time.monotonic() < end and (number := next(numbers, None)) is not None:
            answers.append(await connection.ask(*heads[number % len(heads)]))
            if answers[-1].error or plan["pause"]:
                await asyncio.sleep(plan["pause"] or 0.05)
        connection.close()

    await asyncio.gather(*(work() for _ in range(plan["connections"])))
    return answers


if __name__ == "__main__":
    for finished in asyncio.run(_run(json.load(sys.stdin))):
        print(json.dumps(asdict(finished)))
