"""Runs commands: output goes to a log, and a failure becomes one line with the end of the log."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tests.cluster.console import Problem

TAIL_LINES = 15
# A step that returns its one-line summary.
Action = Callable[[], str]
# Neither bytecode nor the model's training tools change what is built.
NOT_CONTENT = {"__pycache__", "training"}

_running: set[subprocess.Popen[str]] = set()
_lock = threading.Lock()


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log; empty if there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def logged(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> None:
    """Run a command and append its output to `log`. Raises Problem if it fails."""
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        out.write(f"$ {' '.join(words)}\n")
        out.flush()
        try:
            process = subprocess.Popen(
                words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True
            )
        except FileNotFoundError as error:
            raise Problem(f"{words[0]} is not installed", hint or "run: make deps") from error
        with _lock:
            _running.add(process)
        try:
            code = process.wait()
        finally:
            with _lock:
                _running.discard(process)
    if code != 0:
        raise Problem(f"{' '.join(words[:4])} failed with exit code {code}", hint or f"see {log}", tail(log))


def cancel_all() -> None:
    """Terminate every command that `logged` is running."""
    with _lock:
        for process in _running:
            process.terminate()


def output(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> str:
    """The standard output of a short command. Raises Problem if it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise Problem(f"{words[0]} is not installed", "run: make deps") from error
    except subprocess.TimeoutExpired as error:
        raise Problem(f"{' '.join(words[:4])} did not finish within {timeout:.0f} s") from error
    if done.returncode != 0:
        raise Problem(f"{' '.join(words[:6])} failed with exit code {done.returncode}", details=done.stderr)
    return done.stdout


def succeeds(command: Sequence[str | Path], timeout: float = 30) -> bool:
    """Whether a short command exits with 0."""
    try:
        output(command, timeout=timeout)
    except Problem:
        return False
    return True


def digest(paths: Iterable[Path], *extra: str) -> str:
    """A content hash over strings and files (with their names; folders are walked)."""
    total = hashlib.sha256()
    for path in paths:
        members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for member in members:
            if not NOT_CONTENT.isdisjoint(member.relative_to(path.parent).parts):
                continue
            total.update(str(member.relative_to(path.parent)).encode() + b"\0")
            total.update(os.fsencode(str(os.access(member, os.X_OK))) + b"\0")
            total.update(hashlib.sha256(member.read_bytes()).digest())
    for text in extra:
        total.update(text.encode() + b"\0")
    return total.hexdigest()[:16]


class Stamps:
    """Records content hashes of finished builds, so that a repeated run does nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fresh(self, name: str, value: str) -> bool:
        path = self.folder / name
        return path.exists() and path.read_text().strip() == value

    def set(self, name: str, value: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(value + "\n")
