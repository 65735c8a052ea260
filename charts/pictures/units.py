"""Values as Grafana writes them."""

from __future__ import annotations

import math
from typing import Final

_BINARY: Final = (1024, ("B", "KiB", "MiB", "GiB", "TiB"))
_THOUSANDS: Final = (1000, ("", "k", "M", "G"))
_SUFFIXES: Final = {"celsius": "°C", "reqps": "req/s"}


def shown(value: float, unit: str) -> str:
    """A value with its unit, which has Grafana's name, such as `s`, `bytes` or `percentunit`."""
    if math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{_digits(value * 100)} %"
    if unit == "s":
        return _seconds(value)
    if unit in _SUFFIXES:
        return f"{_digits(value)} {_SUFFIXES[unit]}"
    return _scaled(value, *(_BINARY if unit == "bytes" else _THOUSANDS))


def _seconds(value: float) -> str:
    for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 1:
            return f"{_digits(value * factor)} {name}"
    return "0 s"


def _scaled(value: float, base: int, names: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= base and power < len(names) - 1:
        value /= base
        power += 1
    return f"{_digits(value)} {names[power]}".strip()


def _digits(value: float) -> str:
    """Three significant digits without an exponent; what is smaller than a thousandth is 0."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return "0" if abs(value) < 0.001 else f"{value:.3g}"
