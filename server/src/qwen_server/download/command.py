"""The command: downloads with patience, tells how far it is, and exits with a readable cause."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Final, NoReturn, Protocol

from qwen_server.config import termination_log
from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import BUILTIN, ConfigurationError, Settings
from qwen_server.control.lifecycle import EXIT_CONFIGURATION, EXIT_OK
from qwen_server.download import model_scope
from qwen_server.download.failures import EXIT_TEMPORARY, Failure, explain
from qwen_server.download.progress import Tracker, serve
from qwen_server.observe import logs

PATIENCE_SECONDS: Final = 600.0
"""The download gives up when nothing has arrived for so long."""

_LONGEST_PAUSE: Final = 60.0
_LOG_SECONDS: Final = 10.0

_log = logging.getLogger("qwen_server.download")


class Repository(Protocol):
    """What is downloaded."""

    def downloaded(self) -> int:
        """The bytes that are on the disk."""

    def find(self) -> object:
        """Lists the files that vLLM needs. Raises what the hub's library raises, or OSError."""

    def fetch(self) -> object:
        """Downloads what is missing and checks everything. It may be called again."""


def repository_of(settings: Settings, tracker: Tracker) -> Repository:
    """The repository that `--model` names.

    Raises ConfigurationError for a model that is on the disk.
    """
    if settings.model.startswith((BUILTIN, "/", "./", "../")) or Path(settings.model).is_dir():
        raise ConfigurationError(f"--model {settings.model}: only a repository can be downloaded")
    if model_scope.is_chosen(os.environ):
        return model_scope.ModelScopeRepository(settings.model, settings.revision, tracker)
    # Imported here, because ModelScope does not need it.
    from qwen_server.download.hugging_face import HuggingFaceRepository  # noqa: PLC0415

    return HuggingFaceRepository(settings.model, settings.revision, tracker)


def trouble_with(settings: Settings) -> str | None:
    """Why the hub does not list the files of the model. None if it does, or if no hub is needed.

    It may block for half a minute.
    """
    try:
        repository_of(settings, Tracker()).find()
    except ConfigurationError:
        return None
    except Exception as error:  # noqa: BLE001 - the libraries raise anything
        return explain(error).cause
    return None


def download(
    repository: Repository, tracker: Tracker, *, patience: float = PATIENCE_SECONDS, tick: float = 1.0
) -> Failure | None:
    """Downloads, and tries again as long as that may help. Returns None if it has succeeded.

    patience: in seconds without news.
    tick: seconds between two looks at the disk.
    """
    work: Future[None] = Future()
    stop = threading.Event()
    threading.Thread(target=_carry_out, args=(work, repository, tracker, stop), name="download", daemon=True).start()
    logged_at = time.monotonic()
    while not work.done():
        wait([work], timeout=tick)
        tracker.sample(repository.downloaded())
        if tracker.idle_seconds() > patience:
            cause = tracker.trouble or f"the hub cannot be reached: nothing has arrived for {patience:.0f} s"
            tracker.phase = "Failed"
            stop.set()
            return Failure(cause, permanent=False)
        if time.monotonic() - logged_at >= _LOG_SECONDS:
            logged_at = time.monotonic()
            _log.info("%s", _summary(tracker))
    tracker.sample(repository.downloaded())
    error = work.exception()
    if error is not None:
        tracker.phase = "Failed"
        return explain(error)
    tracker.phase, tracker.trouble = "Complete", ""
    return None


def _carry_out(work: Future[None], repository: Repository, tracker: Tracker, stop: threading.Event) -> None:
    try:
        _persist(repository, tracker, stop)
    except Exception as error:  # noqa: BLE001 - the main thread explains it
        work.set_exception(error)
    else:
        work.set_result(None)


def _persist(repository: Repository, tracker: Tracker, stop: threading.Event) -> None:
    """Tries until it succeeds or cannot succeed, or the main thread stops it."""
    attempts = 0
    while not stop.is_set():
        before = tracker.downloaded_bytes
        try:
            repository.fetch()
        except Exception as error:
            failure = explain(error)
            if failure.permanent:
                raise
        else:
            return
        attempts = 1 if tracker.downloaded_bytes > before else attempts + 1
        pause = failure.retry_after if failure.retry_after is not None else min(_LONGEST_PAUSE, 2.0 ** (attempts - 1))
        tracker.trouble = failure.cause
        _log.warning("%s; trying again in %.0f s", failure.cause, pause)
        stop.wait(pause)


def _summary(tracker: Tracker) -> str:
    figures = tracker.report()
    if figures["totalBytes"] is None:
        return "asking the hub for the list of files"
    there, total = figures["downloadedBytes"] / 1e9, figures["totalBytes"] / 1e9
    rate, left = figures["bytesPerSecond"] / 1e6, figures["secondsRemaining"]
    ending = "" if left is None else f", {left} s left"
    return f"{figures['phase'].lower()}: {there:.2f} of {total:.2f} GB, {rate:.1f} MB/s{ending}"


def main(arguments: Sequence[str]) -> NoReturn:
    """Downloads the model that a server with these arguments would need. Ends the process."""
    settings: Settings | None = None
    tracker = Tracker()
    try:
        settings = load_settings(arguments)
        logs.configure(settings.log_format, settings.log_level)
        if (trouble := termination_log.trouble_with(settings.termination_log)) is not None:
            _log.warning("%s", trouble)
        repository = repository_of(settings, tracker)
    except ConfigurationError as error:
        if settings is None:
            logs.configure("json", "info")
        _exit(settings, EXIT_CONFIGURATION, str(error))
    try:
        serve(tracker, settings.host, settings.port)
    except OSError as error:
        _log.warning("nobody can ask for the progress on port %d: %s", settings.port, error)
    _log.info("downloading %s", settings.model)
    failure = download(repository, tracker)
    if failure is not None:
        code = EXIT_CONFIGURATION if failure.permanent else EXIT_TEMPORARY
        _exit(settings, code, f"the model cannot be downloaded: {failure.cause}")
    _exit(settings, EXIT_OK, json.dumps(tracker.report()))


def _exit(settings: Settings | None, code: int, text: str) -> NoReturn:
    """Writes the termination message, a cause or the final figures, and ends the process."""
    path = (settings or Settings.model_construct()).termination_log
    logs.write_termination_message(path, text)
    _log.log(logging.INFO if code == EXIT_OK else logging.ERROR, "exit %d: %s", code, text)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread may hang in the network
