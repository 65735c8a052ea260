from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.auth import ApiKeys, RateLimiter
from qwen_server.errors import HttpError
from qwen_server.middleware import ConnectionAges, request_id_of
from qwen_server.values import RateLimit


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def allowed(limiter: RateLimiter, caller: str = "a") -> bool:
    try:
        limiter.check(caller)
    except HttpError as error:
        return error.status != 429
    return True


@given(st.lists(st.floats(0, 30), max_size=60))
def test_no_window_ever_holds_more_than_twice_the_limit(gaps: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(RateLimit(5, 60.0, "5/minute"), clock=clock)
    passed: list[float] = []
    for gap in gaps:
        clock.now += gap
        if allowed(limiter):
            passed.append(clock.now)
    for begin in passed:
        assert sum(begin <= at < begin + 60 for at in passed) <= 10
    duration = clock.now - 50
    assert len(passed) <= 5 + duration * 5 / 60 + 1e-6


def test_a_limit_is_each_callers_own_and_grows_back() -> None:
    clock = Clock()
    limiter = RateLimiter(RateLimit(2, 60.0, "2/minute"), clock=clock)
    assert [allowed(limiter) for _ in range(3)] == [True, True, False]
    assert allowed(limiter, "b")
    clock.now += 30
    assert [allowed(limiter) for _ in range(2)] == [True, False]


def test_without_a_limit_everything_passes() -> None:
    limiter = RateLimiter(None)
    assert all(allowed(limiter) for _ in range(1000))


def test_keys_are_read_again_when_a_mounted_secret_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\n")
    (tmp_path / "..2025").mkdir()
    keys = ApiKeys(tmp_path)
    first = keys.caller({"authorization": "Bearer one"})
    (tmp_path / "a").write_text("two-longer")
    keys.poll()
    assert keys.caller({"authorization": "bearer two-longer"}) != first
    with pytest.raises(HttpError):
        keys.caller({"authorization": "Bearer one"})


def test_a_key_may_hold_any_character(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("密钥-ключ", encoding="utf-8")
    keys = ApiKeys(tmp_path)
    assert keys.caller({"authorization": "Bearer " + "密钥-ключ".encode().decode("latin-1")})


def test_a_folder_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for folder in (tmp_path, tmp_path / "missing"):
        keys = ApiKeys(folder)
        for headers in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer x"}):
            with pytest.raises(HttpError) as refused:
                keys.caller(headers)
            assert refused.value.status == 401


def test_connections_end_once_after_their_time() -> None:
    ages = ConnectionAges(300, jitter=lambda: 0.0)
    client = ("10.0.0.1", 4242)
    assert not ages.is_old(client, 0)
    assert not ages.is_old(client, 299)
    assert ages.is_old(client, 301)
    assert not ages.is_old(client, 302)


def test_a_port_that_comes_back_much_later_is_a_new_connection() -> None:
    ages = ConnectionAges(300, jitter=lambda: 0.0)
    ages.is_old(("10.0.0.1", 4242), 0)
    assert not ages.is_old(("10.0.0.1", 4242), 1000)


def test_many_short_connections_are_remembered_in_little_memory() -> None:
    ages = ConnectionAges(300, jitter=lambda: 0.0)
    for port in range(20_000):
        ages.is_old(("10.0.0.1", port), 0)
    assert len(ages) <= 8192
    assert ages.is_old(("10.0.0.1", 19_999), 301)


@given(st.binary(max_size=200))
def test_a_request_id_is_always_safe_to_echo_and_log(value: bytes) -> None:
    chosen = request_id_of([(b"X-Request-Id", value)])
    assert 1 <= len(chosen) <= 128
    assert chosen.isascii()
    assert chosen.isprintable()
    assert " " not in chosen
