import asyncio
import logging
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from qwen_server.config.values import RateLimit
from qwen_server.http.api_keys import ApiKeys
from qwen_server.http.error_bodies import HttpError
from qwen_server.http.middleware import request_id_of
from qwen_server.http.rate_limits import RateLimiter


class Clock:
    now = 1_000_000_020.5

    def __call__(self) -> float:
        return self.now


async def allowed(limiter: RateLimiter, caller: str = "a") -> bool:
    try:
        await limiter.check(caller)
    except HttpError as error:
        if error.status != 429:
            raise
        return False
    return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@given(st.lists(st.floats(0, 30), max_size=60))
async def test_no_window_ever_holds_more_than_twice_the_limit(gaps: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", clock := Clock())
        limiter = RateLimiter(RateLimit(5, 60.0, "5/minute"))
        passed: list[float] = []
        for gap in gaps:
            clock.now += gap
            if await allowed(limiter):
                passed.append(clock.now)
        for begin in passed:
            assert sum(begin <= at < begin + 60 for at in passed) <= 10
        windows = math.ceil((clock.now - Clock.now) / 60) + 1
        assert len(passed) <= 5 * windows


async def test_a_limit_is_each_callers_own_and_grows_back(clock: Clock) -> None:
    limiter = RateLimiter(RateLimit(2, 60.0, "2/minute"))
    assert [await allowed(limiter) for _ in range(3)] == [True, True, False]
    assert await allowed(limiter, "b")
    clock.now += 61
    assert [await allowed(limiter) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("limit", [RateLimit(10, 60.0, "10/minute"), RateLimit(3, 1.0, "3/second")])
async def test_a_client_that_waits_for_retry_after_is_admitted(clock: Clock, limit: RateLimit) -> None:
    limiter = RateLimiter(limit)
    waits: list[int] = []
    while len(waits) < 30:
        try:
            await limiter.check("a")
        except HttpError as error:
            waits.append(int(error.headers["Retry-After"]))
            clock.now += waits[-1] + 0.001
            assert await allowed(limiter)
    assert min(waits) >= 1
    assert max(waits) <= limit.seconds


async def test_a_clock_that_is_set_back_locks_nobody_out(clock: Clock) -> None:
    limiter = RateLimiter(RateLimit(2, 60.0, "2/minute"))
    assert [await allowed(limiter) for _ in range(3)] == [True, True, False]
    clock.now -= 86_400
    assert await allowed(limiter)


async def test_the_limits_memory_does_not_grow_with_time(clock: Clock) -> None:
    limiter = RateLimiter(RateLimit(100, 1.0, "100/second"))
    for _ in range(300):
        assert await allowed(limiter)
        await asyncio.sleep(0)  # what has expired is removed by a task
        clock.now += 3.0
    kept = vars(limiter._limiter.storage)
    assert len(kept["storage"]) <= 2
    assert len(kept["locks"]) <= 4


async def test_without_a_limit_everything_passes() -> None:
    limiter = RateLimiter(None)
    assert all([await allowed(limiter) for _ in range(1000)])


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key.encode())]


def knows(keys: ApiKeys, key: str) -> bool:
    try:
        return bool(keys.caller(bearer(key)))
    except HttpError as error:
        if error.status != 401:
            raise
        return False


def test_keys_are_read_again_when_a_mounted_secret_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\n")
    (tmp_path / "..2025").mkdir()
    keys = ApiKeys(tmp_path)
    first = keys.caller(bearer("one"))
    (tmp_path / "a").write_text("two-longer")
    keys.poll()
    assert keys.caller([(b"authorization", b"bearer two-longer")]) != first
    assert not knows(keys, "one")


def test_a_file_may_hold_several_keys_and_comments(tmp_path: Path) -> None:
    (tmp_path / "team-a").write_text("# of team a\n\n  one  \r\ntwo\n#three\n")
    (tmp_path / "team-b").write_text("four")
    keys = ApiKeys(tmp_path)
    assert [knows(keys, key) for key in ("one", "two", "three", "#three", "four", "")] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]


def test_keys_of_the_environment_and_of_a_folder_are_all_good(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    keys = ApiKeys(tmp_path, SecretStr("two, three\nfour"))
    assert all(knows(keys, key) for key in ("one", "two", "three", "four"))
    assert not knows(keys, "two,")


def test_a_key_may_come_as_x_api_key(tmp_path: Path) -> None:
    keys = ApiKeys(None, SecretStr("one two"))
    assert keys.caller([(b"x-api-key", b"one")]) == keys.caller(bearer("one"))
    assert keys.caller([(b"authorization", b"Bearer wrong"), (b"x-api-key", b"one")])
    for headers in ([(b"x-api-key", b"three")], [(b"authorization", b"Basic one")], [(b"authorization", b"one")]):
        with pytest.raises(HttpError):
            keys.caller(headers)


def test_a_key_may_hold_any_character(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("密钥-ключ", encoding="utf-8")
    assert knows(ApiKeys(tmp_path), "密钥-ключ")


def test_a_folder_without_keys_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").write_text("\n# nothing\n")
    for folder, said in ((tmp_path, "all requests are rejected"), (tmp_path / "missing", "none of them is accepted")):
        caplog.clear()
        keys = ApiKeys(folder)
        assert said in caplog.text
        for headers in ([], [(b"authorization", b"Bearer ")], bearer("x"), bearer("# nothing")):
            with pytest.raises(HttpError) as refused:
                keys.caller(headers)
            assert refused.value.status == 401


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (1 << 20) + b"y"], ids=["not UTF-8", "too large"])
def test_a_file_that_cannot_be_read_closes_the_door_at_the_second_look(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").write_text("one")
    keys = ApiKeys(tmp_path, SecretStr("two"))
    (tmp_path / "b").write_bytes(content)
    keys.poll()
    assert knows(keys, "one")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            keys.poll()
    assert not knows(keys, "one")
    assert knows(keys, "two")
    assert len(caplog.records) == 1
    (tmp_path / "b").unlink()
    keys.poll()
    assert knows(keys, "one")


def test_without_folder_and_variable_everyone_is_the_same_caller() -> None:
    keys = ApiKeys(None)
    assert not keys.required
    assert keys.caller([]) == keys.caller(bearer("x")) == ""


@given(st.binary(max_size=200))
def test_a_request_id_is_always_safe_to_echo_and_log(value: bytes) -> None:
    chosen = request_id_of([(b"X-Request-Id", value)])
    assert 1 <= len(chosen) <= 128
    assert chosen.isascii()
    assert chosen.isprintable()
    assert " " not in chosen
