"""How late tokens are, the pace of the replaying engine, and the search for the capacity."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import lateness, pace
from benchmarks.load import Job, Result
from benchmarks.pace import Files, Pacemaker, Step
from benchmarks.parts import capacity
from benchmarks.servers import Server

WORDS = "abcdefg"


def _stream(begin: int, tokens: int, first: int, late: float, share: int = 1) -> list[tuple[float, str]]:
    """Tokens of consecutive steps, one each 10 ms, `share` of them in each piece of text."""
    text = [(step, WORDS[(first + step) % len(WORDS)]) for step in range(begin, begin + tokens)]
    pieces = [text[at : at + share] for at in range(0, tokens, share)]
    return [(piece[-1][0] * 0.01 + late, "".join(word for _, word in piece)) for piece in pieces]


@given(st.integers(0, 1000), st.integers(0, 6), st.integers(1, 60))
def test_lateness_follows_the_steps_through_repeated_words(first: int, begin: int, tokens: int) -> None:
    steps = [Step(number * 0.01, full=number >= 5) for number in range(100)]
    found = lateness.of([_stream(begin, tokens, first, 0.004)] * 3, steps, WORDS, first % len(WORDS))
    full = len(range(max(begin, 5), begin + tokens))
    if full < 2:
        assert math.isnan(found.p99)
    else:
        assert found.p99 == pytest.approx(0.004)
        assert found.rate == pytest.approx(3 * full / (0.01 * (full - 1)))


def test_a_token_that_waits_for_others_of_its_event_is_late() -> None:
    steps = [Step(number * 0.01, full=True) for number in range(40)]
    found = lateness.of([_stream(0, 40, 0, 0.001, share=4)], steps, WORDS, 0)
    assert found.p99 == pytest.approx(0.031)


def test_a_token_that_no_step_made_is_an_error() -> None:
    steps = [Step(0.0, full=True)] * 2
    with pytest.raises(ValueError, match="no step makes"):
        lateness.of([[(1.0, "x")]], steps, WORDS, 0)
    with pytest.raises(ValueError, match="the engine made 2 steps"):
        lateness.of([[(1.0, "abc")]], steps, WORDS, 0)


def test_the_pace_is_slow_until_all_streams_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pace.FOLDER, str(tmp_path))
    monkeypatch.setenv(pace.WHICH, "ours")
    pace.set_pace(tmp_path, 0, 0)
    maker = Pacemaker(["a", "b"])
    assert not maker.is_set()
    pace.set_pace(tmp_path, 0.001, 3)
    assert maker.is_set()
    settled = 10.0 + pace.SETTLE_SECONDS
    assert maker.seconds(2, 9.0) == (pace.SLOW_SECONDS, False)
    assert maker.seconds(3, 10.0) == (pace.SLOW_SECONDS, False)
    assert maker.seconds(3, settled) == (0.001, True)
    pace.set_pace(tmp_path, 0.5, 3)
    assert maker.seconds(3, settled) == (0.5, True)
    assert maker.seconds(2, settled) == (0.5, False)
    assert maker.seconds(3, settled + 1) == (0.5, False)


def test_the_benchmark_reads_what_the_engine_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pace.FOLDER, str(tmp_path))
    monkeypatch.setenv(pace.WHICH, "rust")
    pace.set_pace(tmp_path, 1, 1)
    maker = Pacemaker(list(WORDS))
    files = Files(tmp_path, "rust")
    noted = [Step(float(number), full=number > 1) for number in range(4)]
    for step in noted:
        maker.note(step)
    assert (files.words(), files.steps(), files.since(1)) == (WORDS, 4, noted[1:])


class _Frontend:
    """Stands for the processes and the load: late above `limit`, and an engine with a limit."""

    which = "ours"
    label = "this server"
    port = 0

    def __init__(self, limit: float, engine_limit: float = math.inf, disturbed: int = -1) -> None:
        self.limit, self.engine_limit, self.disturbed = limit, engine_limit, disturbed
        self.asked: list[int] = []
        self.rate = 0.0

    def frontend_cpu(self) -> float:
        return 0.0

    def set_pace(self, _folder: Path, seconds: float, streams: int) -> None:
        self.rate = streams / seconds

    def drive(self, job: Job, **_: object) -> Result:
        self.asked.append(job.body["max_tokens"])
        return Result(answered=64, tokens=64 * job.body["max_tokens"])

    def of(self, *_: object) -> lateness.Lateness:
        late = self.rate > self.limit or len(self.asked) - 1 == self.disturbed
        return lateness.Lateness(1.0 if late else 0.01, min(self.rate, self.engine_limit))


def _search(frontend: _Frontend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> capacity._Search:
    monkeypatch.setattr(Files, "words", lambda _: WORDS)
    monkeypatch.setattr(Files, "steps", lambda _: 0)
    monkeypatch.setattr(Files, "since", lambda *_: [])
    monkeypatch.setattr(pace, "set_pace", frontend.set_pace)
    monkeypatch.setattr(capacity, "drive", frontend.drive)
    monkeypatch.setattr(lateness, "of", frontend.of)
    server: Server = frontend  # type: ignore[assignment]
    return capacity._Search(server, tmp_path, {0}, 3968)


@pytest.mark.parametrize("limit", [0.0, 1500.0, 85_000.0, math.inf])
def test_no_answer_is_empty_or_longer_than_allowed(
    limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend = _Frontend(limit)
    found = _search(frontend, tmp_path, monkeypatch).best(None)
    assert all(1 <= tokens <= 3968 for tokens in frontend.asked)
    if limit == 0.0:
        assert math.isnan(found.tokens_per_second)
    elif limit < math.inf:
        assert limit / 1.05 <= found.tokens_per_second <= limit


@pytest.mark.parametrize("disturbed", range(6))
def test_one_disturbed_try_changes_nothing(disturbed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = _Frontend(50_000.0, disturbed=disturbed)
    assert _search(frontend, tmp_path, monkeypatch).best(48_000.0).tokens_per_second >= 50_000 / 1.05


def test_an_engine_that_is_too_slow_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = _search(_Frontend(math.inf, engine_limit=60_000.0), tmp_path, monkeypatch)
    assert search.best(None).tokens_per_second == pytest.approx(60_000.0)
    assert search.engine_was_slow


def test_later_searches_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = _Frontend(50_000.0)
    _search(frontend, tmp_path, monkeypatch).best(49_000.0)
    assert len(frontend.asked) <= 8
