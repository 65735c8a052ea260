"""The load generator, a process: `python -m benchmarks.load` reads a job and prints its result.

Both are JSON. It speaks HTTP/1.1 over keep-alive connections and parses no more of an answer than
it must, so that the server is measured and not the client. It uses only the standard library and
starts at once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.figures import percentile, poisson_times

_NUMBER = b"########"
# vLLM first sends an event with only the role: its text is empty and no token.
_TOKEN = re.compile(rb'"(?:content|text)":"[^"]')
_TEXT = re.compile(rb'"(?:content|text)":"([^"]+)"')
ROUND_SECONDS = 0.01
_LONGEST = 11  # bytes: the start of a match that the next part of the answer may complete


@dataclass(frozen=True, slots=True)
class Job:
    """What to send: a closed loop, or with `rate` an open loop.

    In a closed loop, `concurrency` connections each send their next request when the last one is
    answered, `requests` in all or for `seconds`. In an open loop, requests arrive at random
    (Poisson), `rate` a second for `seconds`, whatever became of earlier ones; requests without an
    answer `grace` seconds after the end are dropped. Refused requests are not repeated. Eight # in
    the body become the number of the request, so that no prompt is found in the prefix cache.
    `arrivals` asks for the text of each stream with its times, for texts that need no escapes. It
    then reads all streams only every `ROUND_SECONDS`: the generator shares a core with the engine,
    and would bound the fastest servers if it woke up for each event.
    """

    port: int
    path: str
    body: dict[str, Any]
    concurrency: int = 1
    requests: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    grace: float = 5.0
    seed: int = 0
    arrivals: bool = False


@dataclass(slots=True)
class Result:
    """What came back. Times are in seconds; tokens are those that the answers' `usage` counts."""

    seconds: float = 0.0
    sent: int = 0
    answered: int = 0
    refused: int = 0
    unanswered: int = 0
    in_time: int = 0  # complete answers whose first token came within a second
    tokens: int = 0
    events: int = 0  # events with text
    ttft_p99: float = 0.0
    total_p50: float = 0.0
    total_p99: float = 0.0
    refusal_p99: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    # Of each stream, in their order: when a piece of text came (time.monotonic), and the text.
    arrivals: list[list[tuple[float, str]]] = field(default_factory=list)


@dataclass(slots=True)
class _Answer:
    sent_at: float
    first_at: float = 0.0
    done_at: float = 0.0
    status: int = 0
    tokens: int = 0
    events: int = 0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  # if asked for


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time.

    With `keep`, what arrives is kept with its time, and read only when all is over: reading costs
    CPU time, which the servers need.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self._answer: _Answer | None = None
        self._done: asyncio.Future[_Answer] | None = None
        self._tail = b""
        self._left = -1  # bytes left of a body of known length; -1 for a chunked body
        self.closed = False
        self.ending = False  # the server closes the connection after this answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[_Answer]:
        """Sends a request. The future raises ConnectionError if the connection ends too early."""
        assert self._transport is not None
        self._answer = _Answer(time.perf_counter())
        self._tail = b""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        if not answer.status:
            data = self._tail + data
            if b"\r\n\r\n" not in data:
                self._tail = data
                return
            head, _, data = data.partition(b"\r\n\r\n")
            self._tail = b""
            self._begin(answer, head)
        window = self._tail + data
        if self._keep:
            answer.pieces.append((time.monotonic(), data))
        else:
            found = self._count(data)
            if found and not answer.events:
                answer.first_at = time.perf_counter()
            answer.events += found
        self._tail = window[-1024:]
        if self._left >= 0:
            self._left -= len(data)
        if self._left == 0 or (self._left < 0 and window.endswith(b"\r\n0\r\n\r\n")):
            self._finish(answer)

    def _count(self, data: bytes) -> int:
        """The events with text that end in `data`."""
        seam = self._tail[-_LONGEST:]
        return sum(match.end() > len(seam) for match in _TOKEN.finditer(seam + data))

    def _begin(self, answer: _Answer, head: bytes) -> None:
        answer.status = int(head.split(b" ", 2)[1])
        self._left = -1
        for line in head.lower().split(b"\r\n")[1:]:
            if line.startswith(b"content-length:"):
                self._left = int(line.split(b":")[1])
            elif line == b"connection: close":
                self.ending = True

    def _finish(self, answer: _Answer) -> None:
        answer.done_at = time.perf_counter()
        answer.first_at = answer.first_at or answer.done_at
        _, found, rest = self._tail.rpartition(b'"completion_tokens":')
        answer.tokens = int(rest.split(b",", 1)[0].split(b"}", 1)[0]) if found else 0
        self._answer = None
        if self._done is not None and not self._done.done():
            self._done.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("closed before the end of the answer"))

    def close(self) -> None:
        """Drops the connection."""
        if self._transport is not None:
            self._transport.abort()


class LoadGenerator:
    """Runs one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        body = json.dumps(job.body).encode()
        self._number = job.seed * 1_000_000
        head = f"POST {job.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._answers: list[_Answer] = []
        self._idle: list[_Connection] = []
        self._unanswered = 0

    async def run(self) -> Result:
        """Sends everything and counts."""
        rounds = asyncio.create_task(_in_rounds()) if self._job.arrivals else None
        started = time.perf_counter()
        sent = await (self._open(started) if self._job.rate else self._closed(started))
        seconds = self._job.seconds if self._job.rate else time.perf_counter() - started
        if rounds is not None:
            rounds.cancel()
        return self._result(seconds, sent)

    async def _closed(self, started: float) -> int:
        job = self._job
        left = job.requests or sys.maxsize
        sent = 0

        async def worker() -> None:
            nonlocal left, sent
            while left > 0 and (not job.seconds or time.perf_counter() - started < job.seconds):
                left -= 1
                sent += 1
                await self._one()

        await asyncio.gather(*(worker() for _ in range(job.concurrency)))
        return sent

    async def _open(self, started: float) -> int:
        job = self._job
        tasks = []
        for at in poisson_times(job.rate, job.seconds, job.seed):
            wait = started + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._one()))
        await asyncio.wait(tasks, timeout=max(0.0, started + job.seconds + job.grace - time.perf_counter()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)

    async def _one(self) -> None:
        connection = None
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    break
            if connection is None or connection.closed:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(self._new_connection, "127.0.0.1", self._job.port)
            self._number += 1
            request = self._request.replace(_NUMBER, b"%08d" % self._number)
            self._answers.append(await connection.ask(request))
            if connection.ending:
                connection.close()
            else:
                self._idle.append(connection)
        except (OSError, asyncio.CancelledError) as error:
            self._unanswered += 1
            if connection is not None:
                connection.close()
            if isinstance(error, asyncio.CancelledError):
                raise

    def _new_connection(self) -> _Connection:
        return _Connection(keep=self._job.arrivals)

    def _result(self, seconds: float, sent: int) -> Result:
        good = [answer for answer in self._answers if answer.status == 200 and answer.tokens]
        refused = [answer for answer in self._answers if answer.status != 200 or not answer.tokens]
        first = [answer.first_at - answer.sent_at for answer in good]
        total = [answer.done_at - answer.sent_at for answer in good]
        result = Result(seconds, sent, len(good), len(refused), self._unanswered)
        result.in_time = sum(value <= 1.0 for value in first)
        result.tokens = sum(answer.tokens for answer in good)
        result.events = sum(answer.events for answer in good)
        result.ttft_p99 = percentile(first, 0.99)
        result.total_p50, result.total_p99 = percentile(total, 0.5), percentile(total, 0.99)
        result.refusal_p99 = percentile([answer.done_at - answer.sent_at for answer in refused], 0.99)
        for answer in self._answers:
            result.statuses[str(answer.status)] = result.statuses.get(str(answer.status), 0) + 1
        if self._job.arrivals:
            result.arrivals = [arrivals(answer.pieces) for answer in good]
        return result


async def _in_rounds() -> None:
    """Lets the event loop work only once a round, on all that has come since the last one."""
    while True:
        time.sleep(ROUND_SECONDS)  # noqa: ASYNC251 - it holds the loop on purpose
        await asyncio.sleep(0)


def arrivals(pieces: Sequence[tuple[float, bytes]]) -> list[tuple[float, str]]:
    """The texts of a stream's events, each with the time at which its last byte came."""
    ends = list(itertools.accumulate(len(data) for _, data in pieces))
    found: list[tuple[float, str]] = []
    piece = 0
    for match in _TEXT.finditer(b"".join(data for _, data in pieces)):
        while ends[piece] < match.end():
            piece += 1
        found.append((pieces[piece][0], match[1].decode()))
    return found


def drive(job: Job, *, cores: set[int] | None = None) -> Result:
    """Runs a job in its own process, on these cores if given. Raises RuntimeError."""
    command = [sys.executable, "-m", "benchmarks.load"]
    if cores:
        command = ["taskset", "--cpu-list", ",".join(str(core) for core in sorted(cores)), *command]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()[-2000:]}")
    return Result(**json.loads(done.stdout))


def main() -> None:
    """Reads a job from standard input, writes its result to standard output."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # an overloaded server leaves thousands of connections open
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = asyncio.run(LoadGenerator(Job(**json.load(sys.stdin))).run())
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
