"""`make fuzz`: at least 10,000 generated requests against a real server on a real vLLM."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.rounds import Round, fuzz
from tests.integration.server_process import ready_server

# Short answers, so that thousands of requests take only minutes.
FLAGS = (
    "--max-tokens-limit=16",
    "--default-max-tokens=16",
    "--max-choices=4",
    "--max-prompts=8",
    "--log-level=warning",
)


def main(arguments: Sequence[str]) -> int:
    """Runs the fuzzer. Returns 0 if every answer was as documented, otherwise 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="requests to try at least (default: 10000)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run (default: another one each time)")
    parser.add_argument("--url", default=None, help="a running server instead of one of its own")
    given = parser.parse_args(arguments)
    seed = random.randrange(1 << 31) if given.seed is None else given.seed
    print(f"fuzz: at least {given.cases:,} cases, SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.url is not None:
            return _report(_rounds(given.url, given.cases, seed, folder), [])
        with ready_server(folder, *FLAGS) as server:
            try:
                rounds = _rounds(server.url, given.cases, seed, folder)
                server.until_requests(0, 0, 30)
            except BaseException:
                sys.stderr.writelines(server.lines[-20:])
                raise
            return _report(rounds, [line for line in server.lines if "Traceback" in line])


def _rounds(url: str, cases: int, seed: int, folder: Path) -> list[Round]:
    begun = time.monotonic()

    def progress(text: str) -> None:
        print(f"fuzz: [{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    return fuzz(url, cases=cases, seed=seed, folder=folder, progress=progress)


def _report(rounds: list[Round], tracebacks: list[str]) -> int:
    last = rounds[-1]
    if not last.clean:
        print(last.output)
    for line in tracebacks:
        print(line)
    total = sum(each.cases for each in rounds)
    failures = sum(each.failures + each.errors for each in rounds)
    print(
        f"fuzz: {total:,} cases over {last.operations} operations: {failures} failure(s), "
        f"{len(tracebacks)} traceback(s) in the log"
    )
    return 0 if last.clean and not tracebacks else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
