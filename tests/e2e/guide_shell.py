"""A shell in which the commands of a page run one after another, as a reader pastes them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """What a command did: its exit code, and its standard output and error as they came."""

    code: int
    output: str


class Shell:
    """A running bash. Variables, folders and background jobs outlive the command that made them."""

    def __init__(self, bash: subprocess.Popen[str], records: Path) -> None:
        self._bash = bash
        self._records = records
        self._count = 0
        self._send("set -o pipefail")

    def run(self, command: str, timeout: float = 60) -> Outcome:
        """Runs a command. Raises AssertionError if it does not end within so many seconds."""
        self._count += 1
        script, output, code = (self._records / f"{self._count:03}.{part}" for part in ("sh", "out", "code"))
        script.write_text(f"{command}\n", encoding="utf-8")
        # Its own input is empty: the shell's input is what comes next.
        self._send(f"source {_word(script)} </dev/null >{_word(output)} 2>&1; echo $? >{_word(code)}.part")
        self._send(f"mv {_word(code)}.part {_word(code)}")
        deadline = time.monotonic() + timeout
        while not code.exists():
            if self._bash.poll() is not None or time.monotonic() > deadline:
                printed = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
                raise AssertionError(f"`{command}` has not ended after {timeout:.0f} s: {printed}")
            time.sleep(0.05)
        return Outcome(int(code.read_text()), output.read_text(encoding="utf-8", errors="replace"))

    def _send(self, line: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{line}\n")
        self._bash.stdin.flush()


def _word(path: Path) -> str:
    return shlex.quote(str(path))


@contextmanager
def shell(cwd: Path, records: Path, env: Mapping[str, str], prefix: Sequence[str] = ()) -> Iterator[Shell]:
    """A bash in the folder `cwd`; the block's end ends all that it has started.

    `records` is a folder for the commands and their output, and `prefix` a command that starts
    another one, such as `nsenter`.
    """
    records.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [*prefix, "bash", "--noprofile", "--norc"],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as bash:
        try:
            yield Shell(bash, records)
        finally:
            # Jobs in the background are in the same group.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(bash.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    bash.wait(timeout=2)
