"""`make fuzz`: at least 10,000 generated requests against a real server on a real vLLM."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.hostile import Attack, attack
from tests.fuzz.rounds import Round, fuzz
from tests.fuzz.silence import Silence
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
    parser.add_argument("--hostile", type=int, default=300, help="hostile grammars to try (default: 300)")
    parser.add_argument(
        "--silence",
        type=float,
        default=1.0,
        help="how long the server may not answer a probe, in seconds (default: 1, as the load has the same cores)",
    )
    parser.add_argument("--url", default=None, help="a running server instead of one of its own")
    given = parser.parse_args(arguments)
    seed = random.randrange(1 << 31) if given.seed is None else given.seed
    print(f"fuzz: at least {given.cases:,} cases, SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.url is not None:
            return _report(_run(given.url, given, seed, folder), [], given.silence)
        with ready_server(folder, *FLAGS) as server:
            try:
                run = _run(server.url, given, seed, folder)
                server.until_requests(0, 0, 30)
            except BaseException:
                sys.stderr.writelines(server.lines[-20:])
                raise
            return _report(run, [line for line in server.lines if "Traceback" in line], given.silence)


@dataclass(frozen=True)
class Run:
    """Everything that one run found."""

    rounds: list[Round]
    attack: Attack
    silence: Silence


def _run(url: str, given: argparse.Namespace, seed: int, folder: Path) -> Run:
    begun = time.monotonic()

    def progress(text: str) -> None:
        print(f"fuzz: [{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    with Silence(url).measured() as silence:
        hostile = attack(url, count=given.hostile, seed=seed, progress=progress)
        progress(f"longest silence so far: {1000 * silence.longest:.0f} ms")
        rounds = fuzz(url, cases=given.cases, seed=seed, folder=folder, progress=progress)
    return Run(rounds, hostile, silence)


def _report(run: Run, tracebacks: list[str], most_silence: float) -> int:
    rounds, silence = run.rounds, run.silence
    last = rounds[-1]
    if not last.clean:
        print(last.output)
    for line in [*tracebacks, *run.attack.findings]:
        print(line)
    silent = silence.failed is not None or silence.longest > most_silence
    print(
        f"fuzz: longest silence {1000 * silence.longest:.0f} ms, {silence.at:.0f} s after the start "
        f"({silence.samples:,} probes, {1000 * most_silence:.0f} ms are allowed) {silence.failed or ''}"
    )
    total = sum(each.cases for each in rounds)
    failures = sum(each.failures + each.errors for each in rounds)
    print(
        f"fuzz: {total:,} cases over {last.operations} operations: {failures} failure(s), "
        f"{len(tracebacks)} traceback(s) in the log"
    )
    return 0 if last.clean and not tracebacks and not run.attack.findings and not silent else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
