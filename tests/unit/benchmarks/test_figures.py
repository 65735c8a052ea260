"""The arithmetic of the benchmarks."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import procfs
from benchmarks.figures import highest, percentile, poisson_times, ratios, spread


def test_percentile_is_the_nearest_rank() -> None:
    values = list(range(1, 101))
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([3.0], 0.99) == 3.0
    assert math.isnan(percentile([], 0.5))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_enough_values_do_not_exceed_the_percentile(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def test_spread_and_ratios_go_run_by_run() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert ratios([1.0, 4.0, 9.0], [2.0, 2.0, 3.0]) == (2.0, 0.5, 3.0)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_run_without_a_figure_is_not_left_out_silently() -> None:
    assert math.isnan(spread([1.0, math.nan, 2.0]).median)
    assert math.isnan(spread([]).median)
    assert math.isnan(ratios([1.0], [0.0]).median)


def test_arrivals_are_poisson() -> None:
    times = poisson_times(200, 60, seed=1)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 60
    assert len(times) == pytest.approx(12000, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)  # as of an exponential distribution
    assert times == poisson_times(200, 60, seed=1)
    assert times != poisson_times(200, 60, seed=2)


def test_cpu_time_counts_user_and_system_of_a_name_with_brackets() -> None:
    fields = ["S", *["0"] * 10, "250", "50", *["7"] * 20]
    ticks = os.sysconf("SC_CLK_TCK")
    assert procfs.cpu_of_stat(f"42 (a (b) c) {' '.join(fields)}") == 300 / ticks


def test_cpu_time_of_a_process_counts_all_its_threads() -> None:
    before = procfs.cpu_of(os.getpid())
    thread = threading.Thread(target=_burn, args=(0.1,))
    thread.start()
    thread.join()
    assert procfs.cpu_of(os.getpid()) - before >= 0.08


def _burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_memory_of_a_process() -> None:
    text = "00-ff ---p 0 00:00 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Anon: 1 kB\n"
    assert procfs.memory_of_rollup(text) == (2.0, 1.0)
    memory = procfs.memory_of(os.getpid())
    assert 1 < memory.pss <= memory.rss + 1


def test_pinning_reaches_every_thread() -> None:
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        procfs.pin([os.getpid()], [core])
        threads = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
        assert len(threads) >= 2
        assert {core} == {name for of in threads for name in os.sched_getaffinity(of)}
    finally:
        procfs.pin([os.getpid()], allowed)
        stop.set()
        thread.join()


def test_yielding_to_others_reaches_every_thread() -> None:
    program = "import threading; threading.Thread(target=input).start(); print('up', flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        procfs.yield_to_others([process.pid])
        threads = [int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) >= 2
        assert {os.getpriority(os.PRIO_PROCESS, of) for of in threads} == {10}
        process.stdin.close()


@given(st.floats(10, 1e6), st.floats(1, 1e7), st.sampled_from([1.1, 1.25]))
def test_the_highest_rate_is_found_from_any_guess(limit: float, guess: float, bracket: float) -> None:
    asked: list[float] = []

    def passes(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = highest(passes, guess, floor=5, ceiling=2e6, bracket=bracket)
    assert found <= limit <= found * 1.05
    assert len(asked) < 50


@given(st.floats(1, 1e7), st.booleans())
def test_no_rate_outside_the_bounds_is_tried(guess: float, keeps_up: bool) -> None:
    """One that never keeps up would otherwise be asked for answers of 0 tokens."""
    asked: list[float] = []

    def passes(rate: float) -> bool:
        asked.append(rate)
        return keeps_up

    found = highest(passes, guess, floor=1000, ceiling=100_000)
    assert found == 100_000 if keeps_up else math.isnan(found)
    assert all(1000 <= rate <= 100_000 for rate in asked)
