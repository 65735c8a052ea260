"""Refusals that a client has to wait out: a full queue and a spent rate limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import httpx

from tests.clients.questions import NAME, PROMPT
from tests.integration.server_process import ServerProcess, stopped

RUNNING, QUEUE = 2, 2
RATE = 20  # requests of a key in a second

_REFUSED = 'qwen_requests_total{outcome="refused"}'

Result = TypeVar("Result")
Failure = TypeVar("Failure", bound=Exception)


class Waited(NamedTuple):
    """What a call returned, and after how many seconds."""

    result: Any
    seconds: float


def spend(server: ServerProcess, key: str) -> None:
    """Uses up what the rate limit allows to a key, with requests that generate nothing."""
    headers = {"Authorization": f"Bearer {key}"}
    with (
        httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def post(_: int) -> int:
            return client.post("/v1/chat/completions", json={"messages": []}).status_code

        for _ in range(20):
            if 429 in pool.map(post, range(2 * RATE)):
                return
    raise AssertionError("the rate limit is never reached")


def refusal_of(server: ServerProcess, key: str, call: Callable[[], object], failure: type[Failure]) -> Failure:
    """What a call without retries raises when the rate limit is spent.

    On a slow machine the call may come so late that the limit is free again; then it is repeated.
    """
    for _ in range(5):
        spend(server, key)
        try:
            call()
        except failure as refused:
            return refused
    raise AssertionError(f"no {failure.__name__} was raised")


def through_a_full_queue(server: ServerProcess, key: str, call: Callable[[], Result]) -> Waited:
    """Makes a call whose first attempt meets a full queue, and waits until it succeeds.

    The engine core is stopped, so that the slots stay occupied until the call has been refused.
    """
    body = {"model": NAME, "prompt": PROMPT, "max_tokens": 8}
    headers = {"Authorization": f"Bearer {key}"}
    with ThreadPoolExecutor(RUNNING + QUEUE + 1) as pool:
        with stopped(server.engine_core()):

            def post() -> int:
                return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=90).status_code

            occupants = [pool.submit(post) for _ in range(RUNNING + QUEUE)]
            server.until_requests(RUNNING, QUEUE)
            before = refused(server)
            begun = time.monotonic()
            answer = pool.submit(call)
            server.until(lambda: refused(server) > before, 20, "the call is refused")
        result = answer.result(timeout=90)
        seconds = time.monotonic() - begun
        assert [occupant.result() for occupant in occupants] == [200] * len(occupants)
    return Waited(result, seconds)


def refused(server: ServerProcess) -> int:
    """How many requests the queue had no place for."""
    page = httpx.get(f"{server.url}/metrics/prometheus", timeout=5).text.splitlines()
    (count,) = (line.rsplit(" ", 1)[1] for line in page if line.startswith(_REFUSED))
    return int(float(count))
