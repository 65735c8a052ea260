"""Console output: steps with their duration, and one clear line if something is wrong."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

HEARTBEAT_SECONDS = 30.0

_started = time.monotonic()
_print_lock = threading.Lock()


class Problem(Exception):  # noqa: N818 - a message for the user
    """A problem that the user can fix.

    `what` is one line, `hint` says how to fix it, and `details` may hold the end of a log.
    """

    def __init__(self, what: str, hint: str = "", details: str = "") -> None:
        super().__init__("\n".join(part for part in (what, hint, details) if part))
        self.what = what
        self.hint = hint
        self.details = details


def duration(seconds: float) -> str:
    """Formats seconds: `0.4s`, `12s`, `3m05s`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


def say(text: str) -> None:
    """Print a progress line with the time since the start."""
    with _print_lock:
        print(f"[{duration(time.monotonic() - _started):>6}] {text}", flush=True)


def complain(problem: Problem) -> None:
    """Print a problem: first the details, so that the important line comes last."""
    with _print_lock:
        sys.stdout.flush()
        if problem.details:
            print(problem.details.rstrip(), file=sys.stderr)
        print(f"error: {problem.what}", file=sys.stderr)
        if problem.hint:
            print(f"       {problem.hint}", file=sys.stderr, flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Announce a step, report every half minute that it still runs, and print its duration."""
    begun = time.monotonic()
    done = threading.Event()

    def remind() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            say(f"{name}: still running after {duration(time.monotonic() - begun)}")

    say(f"{name} ...")
    threading.Thread(target=remind, daemon=True).start()
    try:
        yield
    finally:
        done.set()
    say(f"{name}: done in {duration(time.monotonic() - begun)}")


def side_by_side(steps: Mapping[str, Callable[[], str]], cancel: Callable[[], None]) -> None:
    """Run independent steps in threads. Each returns its one-line summary.

    If one fails, `cancel` stops the commands of the others, and the first failure is raised.
    """
    if not steps:
        return
    with ThreadPoolExecutor(max_workers=len(steps)) as pool:
        begun = time.monotonic()
        pending: dict[Future[str], str] = {pool.submit(action): name for name, action in steps.items()}
        while pending:
            done, _ = wait(pending, timeout=HEARTBEAT_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                name = pending.pop(future)
                error = future.exception()
                if error is not None:
                    cancel()
                    raise error
                say(f"{name}: {future.result()} ({duration(time.monotonic() - begun)})")
            if not done:
                say(f"still running after {duration(time.monotonic() - begun)}: {', '.join(sorted(pending.values()))}")
