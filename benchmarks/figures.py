"""The arithmetic of the benchmarks: percentiles, medians with their spread, Poisson arrivals."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of several runs, with the lowest and the highest."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed (nearest rank).

    NaN if there are no values.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum.

    NaN if there are no values or one of them is NaN: a failed run must not vanish.
    """
    if not values or any(math.isnan(value) for value in values):
        return Spread(math.nan, math.nan, math.nan)
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The ratio of this server to vLLM's, run by run; NaN where vLLM's value is 0.

    A disturbance during a run affects both of its halves, so that the ratio stays meaningful.
    """
    return spread([mine / other if other else math.nan for mine, other in zip(ours, theirs, strict=True)])


def poisson_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Poisson arrival times within `seconds`, on average `rate` a second."""
    generator = random.Random(seed)
    times: list[float] = []
    now = generator.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += generator.expovariate(rate)
    return times


def highest(
    passes: Callable[[float], bool],
    guess: float,
    *,
    floor: float,
    ceiling: float,
    bracket: float = 1.25,
    tolerance: float = 1.05,
) -> float:
    """The highest rate that passes, within the tolerance: brackets the guess, then bisects.

    Only rates from `floor` to `ceiling` are tried. NaN if not even the floor passes; the ceiling if
    it does. A closer bracket is for a better guess.
    """
    low = min(max(guess / bracket, floor), ceiling)
    high = min(max(guess * bracket, low), ceiling)
    failed = math.inf
    while not passes(low):
        if low <= floor:
            return math.nan
        low, failed = max(low / 1.5, floor), low
    if failed == math.inf:
        while passes(high):
            if high >= ceiling:
                return ceiling
            low, high = high, min(high * 1.5, ceiling)
        failed = high
    while failed / low > tolerance:
        middle = math.sqrt(low * failed)
        low, failed = (middle, failed) if passes(middle) else (low, middle)
    return low
