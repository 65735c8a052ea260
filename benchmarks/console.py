"""Progress messages with the time since the start."""

from __future__ import annotations

import time

_STARTED = time.monotonic()


def say(text: str) -> None:
    """One line, with the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"[{minutes:3d}:{seconds:02d}] {text}", flush=True)
