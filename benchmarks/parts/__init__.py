"""The parts of the benchmark; each can run alone."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.context import Context
from benchmarks.parts import capacity, frontend, overload, parity, startup, throughput
from benchmarks.results import Row

Measure = Callable[[Context], tuple[list[Row], list[str]]]

# In this order, for the first four use the same servers.
PARTS: dict[str, Measure] = {
    "throughput": throughput.measure,
    "frontend": frontend.measure,
    "memory": frontend.measure_memory,
    "overload": overload.measure,
    "capacity": capacity.measure,
    "startup": startup.measure,
    "parity": parity.measure,
}
