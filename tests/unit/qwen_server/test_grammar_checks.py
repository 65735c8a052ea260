"""Which grammars are checked, and what is remembered: without vLLM and without processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from qwen_server.engine.base import BusyError, InvalidRequestError
from qwen_server.engine.vllm.grammars import checks
from qwen_server.engine.vllm.grammars.checks import GrammarChecks
from qwen_server.engine.vllm.grammars.fork_server import ForkServerError, JobDiedError, JobTimeoutError
from tests.unit.qwen_server.serving import until


class Jobs:
    """Jobs that end when the test lets them, with what the test says."""

    def __init__(self, result: Callable[[dict[str, Any]], dict[str, Any]] | Exception) -> None:
        self.result = result
        self.gate: Callable[[float], bool] = lambda _: True
        self.slow: Callable[[dict[str, Any]], bool] = lambda _: False
        self.begun: list[dict[str, Any]] = []
        self.ended = 0
        self.go = asyncio.Event()
        self.go.set()

    async def run(self, job: bytes, seconds: float) -> bytes:
        assert seconds in (0.5, 2.0)
        fields = json.loads(job)
        self.begun.append(fields)
        try:
            if self.gate(seconds):
                await self.go.wait()
            await asyncio.sleep(0)
        finally:
            self.ended += 1
        if isinstance(self.result, Exception):
            raise self.result
        if self.slow(fields) and seconds < 2.0:
            raise JobTimeoutError(seconds)
        return json.dumps(self.result(fields)).encode()


def accept(fields: dict[str, Any]) -> dict[str, Any]:
    return {"checked": fields, "backend": "some", "bytes": 100}


def make(jobs: Jobs, patience: float = 5.0, at_a_time: int = 1) -> GrammarChecks:
    return GrammarChecks(jobs, seconds=2.0, patience=patience, at_a_time=at_a_time)


async def test_a_grammar_is_checked_once() -> None:
    jobs = Jobs(accept)
    made = make(jobs)
    first = await made.check({"regex": "é"})
    assert first.fields == {"regex": "é"}
    assert first.backend == "some"
    assert await made.check({"regex": "é"}) is first
    await made.check({"regex": "b"})
    assert jobs.begun == [{"regex": "é"}, {"regex": "b"}]


async def test_the_order_of_properties_is_part_of_a_grammar() -> None:
    jobs = Jobs(accept)
    made = make(jobs)
    await made.check({"json": {"a": 1, "b": 2}})
    await made.check({"json": {"b": 2, "a": 1}})
    assert len(jobs.begun) == 2


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (lambda _: {"refused": "no such rule"}, "no such rule"),
        (JobTimeoutError(1.9), "longer than 2 s"),
        (JobDiedError(), "too much memory"),
    ],
)
async def test_a_bad_grammar_is_refused_every_time_but_checked_once(result: Any, text: str) -> None:
    jobs = Jobs(result)
    made = make(jobs)
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match=text) as caught:
            await made.check({"regex": "a"})
        assert caught.value.param == "response_format"
    assert len(jobs.begun) == (2 if isinstance(result, JobTimeoutError) else 1)


@pytest.mark.parametrize("error", [JobTimeoutError(0.3), ForkServerError("ended")])
async def test_a_check_that_fails_for_another_reason_is_made_again(error: Exception) -> None:
    jobs = Jobs(error)
    made = make(jobs)
    for _ in range(2):
        with pytest.raises(BusyError):
            await made.check({"regex": "a"})
    before = len(jobs.begun)
    jobs.result = accept
    await made.check({"regex": "a"})
    assert len(jobs.begun) == before + 1


async def test_requests_with_the_same_grammar_share_a_check_that_ends_with_the_last() -> None:
    jobs = Jobs(accept)
    jobs.go.clear()
    made = make(jobs)
    first, second = (asyncio.create_task(made.check({"regex": "a"})) for _ in range(2))
    await until(lambda: bool(jobs.begun))
    first.cancel()
    await asyncio.sleep(0.01)
    assert not jobs.ended
    second.cancel()
    await until(lambda: jobs.ended == 1)
    jobs.go.set()
    await made.check({"regex": "a"})
    assert len(jobs.begun) == 2


async def test_a_request_that_comes_while_the_last_one_leaves_gets_a_check_of_its_own() -> None:
    jobs = Jobs(accept)
    jobs.go.clear()
    made = make(jobs)
    leaving = asyncio.create_task(made.check({"regex": "a"}))
    await until(lambda: bool(jobs.begun))
    leaving.cancel()
    await asyncio.wait([leaving])
    jobs.go.set()
    assert (await made.check({"regex": "a"})).fields == {"regex": "a"}


async def test_checks_wait_for_their_turn_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_MOST_WAITING", 3)
    jobs = Jobs(accept)
    jobs.go.clear()
    made = make(jobs)
    waiting = [asyncio.create_task(made.check({"regex": str(number)})) for number in range(3)]
    await until(lambda: bool(jobs.begun))
    with pytest.raises(BusyError):
        await made.check({"regex": "one more"})
    assert len(jobs.begun) == 1
    jobs.go.set()
    await asyncio.gather(*waiting)
    await made.check({"regex": "one more"})
    assert len(jobs.begun) == 4


async def test_slow_grammars_start_over_and_delay_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_MOST_SLOW", 2)
    jobs = Jobs(accept)
    jobs.slow = lambda fields: fields["regex"].startswith("slow")
    jobs.gate = lambda seconds: seconds == 2.0
    jobs.go.clear()
    made = make(jobs)
    slow = [asyncio.create_task(made.check({"regex": f"slow {number}"})) for number in range(2)]
    await until(lambda: len(jobs.begun) == 3)
    with pytest.raises(BusyError, match="slow"):
        await made.check({"regex": "slow 3"})
    assert (await made.check({"regex": "fast"})).fields == {"regex": "fast"}
    jobs.go.set()
    await asyncio.gather(*slow)


async def test_a_check_does_not_wait_forever() -> None:
    jobs = Jobs(accept)
    jobs.go.clear()
    made = make(jobs, patience=0.01)
    first = asyncio.create_task(made.check({"regex": "a"}))
    await until(lambda: bool(jobs.begun))
    with pytest.raises(BusyError):
        await made.check({"regex": "b"})
    jobs.go.set()
    await first


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(accept)
    made = make(jobs)
    monkeypatch.setattr(checks, "_MEMORY", 3 * 1300)
    for number in (1, 2, 3, 1, 4):
        await made.check({"regex": str(number)})
    assert len(jobs.begun) == 4
    await made.check({"regex": "1"})
    assert len(jobs.begun) == 4
    await made.check({"regex": "2"})
    assert len(jobs.begun) == 5
