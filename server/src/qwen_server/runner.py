"""Runs the process: listens, loads the model, serves, drains, and exits with a readable cause.

Only this module changes the lifecycle's state, handles signals and ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import uvicorn
import uvloop

from qwen_server.config.chat_template import read_chat_template
from qwen_server.config.command_line import check_adapters, check_model, load_settings
from qwen_server.config.settings import ConfigurationError, Settings
from qwen_server.config.useless_settings import useless_settings
from qwen_server.control.adapters_file import Source
from qwen_server.control.fit import check_fit
from qwen_server.control.lifecycle import (
    EXIT_CONFIGURATION,
    EXIT_ENGINE_DIED,
    EXIT_OK,
    LAST_REQUEST_SECONDS,
    Lifecycle,
    RestartWatch,
)
from qwen_server.control.reviver import Reviver
from qwen_server.engine.base import Engine, EngineError, NoModelError
from qwen_server.engine.processes import Reaper, adopt_orphans, kill_descendants
from qwen_server.http.connections import BACKLOG, clients_since, uvicorn_config
from qwen_server.http.listeners import open_listener
from qwen_server.observe import logs

if TYPE_CHECKING:
    from qwen_server.observe.tracing import Tracing

EngineFactory = Callable[[Settings], Engine]

_log = logging.getLogger("qwen_server")

_POLL_SECONDS = 0.2
_FLUSH_SECONDS = 1.0
_CLOSE_SECONDS = 2.0
_ENGINE_EXIT_SECONDS = 2.0
_REAP_SECONDS = 5.0
_STOP_SECONDS = 0.5  # within which a signal to all processes has reached this one, too
_LONGEST_TCP_TIMEOUT = (1 << 31) - 1  # milliseconds; the option is a C int


@dataclass(frozen=True, slots=True)
class Ending:
    """How the process ends. The cause is in the last log line and the termination message."""

    code: int
    cause: str


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the runner.

        uvicorn would close the listener, and new clients would get no response during a drain.
        """
        yield


async def _nothing() -> None:
    """What most tests of the runner prepare, and recover."""


class Runner:
    """One run of one server.

    `is_stuck` returns whether the engine does no work, so that a drain cannot finish. `is_lost`
    returns whether it has done none for so long that only a restart can help. `prepare` is what
    follows the start of the engine before requests are accepted; it may raise EngineError.
    `recover` is what follows a restart of the engine before the server is ready again.
    `poll_seconds` is how often the runner checks for events.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        lifecycle: Lifecycle,
        server: uvicorn.Server,
        *,
        is_stuck: Callable[[], bool],
        prepare: Callable[[], Awaitable[None]] = _nothing,
        recover: Callable[[], Awaitable[None]] = _nothing,
        is_lost: Callable[[], bool] = lambda: False,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._lifecycle = lifecycle
        self._server = server
        self._is_stuck = is_stuck
        self._prepare = prepare
        self._poll_seconds = poll_seconds
        self._restarts = RestartWatch(settings.podinfo_dir)
        self._reviver = Reviver(settings, engine, lifecycle, is_lost=is_lost, recover=recover)
        self._stop_cause: str | None = None
        self._skip_drain = False
        self._last_request_seconds = min(LAST_REQUEST_SECONDS, settings.drain_timeout)

    def request_stop(self, cause: str, *, at_once: bool = False) -> None:
        """Requests a drain and an exit. A second request ends the drain at once.

        With `at_once`, open connections are not waited for: somebody waits for the exit.
        """
        if self._stop_cause is not None:
            self._skip_drain = True
        else:
            self._stop_cause = cause
            if at_once:
                self._last_request_seconds = 0.0

    async def run(self, listener: socket.socket) -> Ending:
        """Serves on `listener` until the end, and returns how the process ends."""
        serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="uvicorn")
        starting = asyncio.create_task(self._start(), name="engine")
        try:
            ending = await self._load(starting, serving)
            if ending is None:
                self._lifecycle.mark_ready()
                _log.info("ready: %s", self._engine.info)
                ending = await self._watch(serving)
            return ending
        finally:
            await self._close(serving)

    async def _start(self) -> None:
        await self._engine.start()
        await self._prepare()

    async def _load(self, starting: asyncio.Task[None], serving: asyncio.Task[None]) -> Ending | None:
        """Waits for the engine. Returns None when it is ready."""
        while not starting.done():
            await asyncio.wait([starting], timeout=self._poll_seconds)
            if self._stop_cause is not None:
                # The end of the engine's processes may fail the start. Nobody waits for it.
                starting.add_done_callback(lambda task: task.cancelled() or task.exception())
                return self._stopped_while_loading(self._stop_cause)
            if serving.done():
                return _listener_ended(serving)
        error = starting.exception()
        if error is None:
            return None
        # Who ends all processes of the container or of the unit may have ended the engine's first.
        await asyncio.sleep(_STOP_SECONDS)
        if self._stop_cause is not None:
            return self._stopped_while_loading(self._stop_cause)
        cause = f"the model cannot be served: {error or type(error).__name__}"
        if isinstance(error, NoModelError):
            cause = await self._why_no_model() or cause
        if not isinstance(error, EngineError):
            _log.error("the engine failed to start", exc_info=error)
        self._lifecycle.mark_dead(cause)
        return Ending(EXIT_CONFIGURATION, cause)

    def _stopped_while_loading(self, cause: str) -> Ending:
        self._lifecycle.begin_drain(cause)
        return Ending(EXIT_OK, f"{cause} while the model was loading")

    async def _why_no_model(self) -> str | None:
        """Asks the hub, because vLLM does not say why it found no model there."""
        from qwen_server.download.command import trouble_with  # noqa: PLC0415 - few starts need it

        trouble = await asyncio.to_thread(trouble_with, self._settings)
        return None if trouble is None else f"the model cannot be downloaded: {trouble}"

    async def _watch(self, serving: asyncio.Task[None]) -> Ending:
        """Waits until the engine dies, the HTTP server stops or a stop is requested."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            if (ending := self._death()) is not None:
                await self._flush()
                return ending
            if serving.done():
                return _listener_ended(serving)
            restart = self._restarts.requested() or self._reviver.unmet_request()
            cause = self._stop_cause or (restart and f"restart {restart} was requested")
            if cause:
                return await self._drain(cause)

    def _death(self) -> Ending | None:
        cause = self._reviver.cause_of_death()
        if cause is None:
            return None
        self._lifecycle.mark_dead(cause)
        return Ending(EXIT_ENGINE_DIED, cause)

    async def _drain(self, cause: str) -> Ending:
        """Waits for accepted requests, until the drain timeout, a second stop request or a hang.

        Clients that keep a connection open get the time to send one more request.
        """
        lifecycle = self._lifecycle
        lifecycle.begin_drain(cause, self._last_request_seconds)
        _log.info("%s: draining, %d request(s) in flight", cause, lifecycle.in_flight)
        deadline = asyncio.get_running_loop().time() + self._settings.drain_timeout
        while lifecycle.in_flight or self._awaits_last_requests():
            if (ending := self._death()) is not None:
                await self._flush()
                return ending
            if self._skip_drain or self._is_stuck() or asyncio.get_running_loop().time() >= deadline:
                _log.warning("giving up on %d request(s)", lifecycle.in_flight)
                lifecycle.give_up()
                await self._flush()
                break
            await asyncio.sleep(self._poll_seconds / 4)
        return Ending(EXIT_OK, cause)

    def _awaits_last_requests(self) -> bool:
        begun = self._lifecycle.draining_since
        return self._lifecycle.may_send_last_request(begun) and clients_since(self._server, begun) > 0

    async def _flush(self) -> None:
        """Gives the server a moment to send the error responses."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._lifecycle.wait_idle()

    async def _close(self, serving: asyncio.Task[None]) -> None:
        """Closes the connections, then ends the engine's processes."""
        graceful = self._lifecycle.state == "draining" and not self._is_stuck() and not self._skip_drain
        self._reviver.abandon()
        self._server.should_exit = True
        await asyncio.wait([serving], timeout=_CLOSE_SECONDS)
        await self._engine.shutdown(_ENGINE_EXIT_SECONDS if graceful else 0)


def _listener_ended(serving: asyncio.Task[None]) -> Ending:
    error = serving.exception() if not serving.cancelled() else None
    return Ending(EXIT_CONFIGURATION, f"the HTTP server stopped: {error or 'no reason given'}")


def listen(settings: Settings) -> socket.socket:
    """Returns the listening socket. Raises ConfigurationError with the flags."""
    try:
        listener = open_listener(settings.host, settings.port, BACKLOG)
    except OSError as error:
        number = error.errno or 0  # negative for errors of the resolver, such as an unknown host
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        flags = f"--port {settings.port}" if settings.host is None else f"--host {settings.host} --port {settings.port}"
        raise ConfigurationError(f"{flags}: {reason}") from error
    # Connections inherit this option: a connection ends when its client has acknowledged no data
    # for this time, even if there is more to send.
    milliseconds = min(int(1000 * settings.keep_alive_timeout), _LONGEST_TCP_TIMEOUT)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener


def vllm_engine(settings: Settings) -> Engine:
    """Returns the engine that the program serves. Raises EngineError if its model does not fit."""
    # Imported here, because `--help` and configuration errors do not need it.
    from qwen_server.engine.vllm import VllmEngine  # noqa: PLC0415
    from qwen_server.engine.vllm.environment import expected_device  # noqa: PLC0415

    check_fit(settings, expected_device(settings))
    return VllmEngine(settings)


def _tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_traces_endpoint is None:
        return None
    from qwen_server.observe.tracing import Tracing  # noqa: PLC0415 - the import takes 0.1 s, and few servers need it

    return Tracing()


def _fetch_adapter(source: Source) -> Path:
    from qwen_server.download.adapters import fetch_adapter  # noqa: PLC0415 - few servers need it

    return fetch_adapter(source)


async def _serve(settings: Settings, listener: socket.socket, make_engine: EngineFactory) -> NoReturn:
    """Runs a server to its end, and exits inside the event loop.

    Closing the loop would wait for threads that may hang.
    """
    from qwen_server.app import create_app  # noqa: PLC0415

    lifecycle = Lifecycle()
    try:
        engine = make_engine(settings)
    except EngineError as error:
        _exit(settings, Ending(EXIT_CONFIGURATION, f"the model cannot be served: {error}"))
    if settings.log_prompts:
        _log.warning("--log-prompts is set: the text of prompts and answers is logged")
    app = create_app(settings, engine, lifecycle, tracing=_tracing(settings), fetch_adapter=_fetch_adapter)
    service = app.state.service
    server = _Server(uvicorn_config(app, settings, app.state.patches))
    runner = Runner(
        settings,
        engine,
        lifecycle,
        server,
        is_stuck=lambda: bool(service.alert_state.zero_work),
        prepare=service.adapters.start,
        recover=service.adapters.recover,
        is_lost=service.engine_is_lost,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Who presses Ctrl-C waits for the exit.
        stop = partial(runner.request_stop, f"received {number.name}", at_once=number == signal.SIGINT)
        loop.add_signal_handler(number, stop)
    _log.info("listening on %s port %d", *listener.getsockname()[:2])
    reaping = asyncio.create_task(_reap(), name="reaper")
    try:
        ending = await runner.run(listener)
    except Exception as error:  # noqa: BLE001 - a bug must not leave the engine's processes behind
        _log.exception("the server failed")
        ending = Ending(EXIT_ENGINE_DIED, f"internal error: {error!r}")
    reaping.cancel()
    _exit(settings, ending)


async def _reap() -> None:
    """Waits for what dead engines leave behind."""
    reaper = Reaper()
    while True:
        await asyncio.sleep(_REAP_SECONDS)
        reaper.look()


def main(arguments: Sequence[str], make_engine: EngineFactory = vllm_engine) -> NoReturn:
    """Runs the server with the arguments of a command line. Ends the process."""
    settings: Settings | None = None
    try:
        settings = load_settings(arguments)
        logs.configure(settings.log_format, settings.log_level)
        for sentence in useless_settings(settings, os.environ):
            _log.warning("%s", sentence)
        check_model(settings)
        check_adapters(settings)
        read_chat_template(settings)
        listener = listen(settings)
    except ConfigurationError as error:
        if settings is None:
            logs.configure("json", "info")
        _exit(settings, Ending(EXIT_CONFIGURATION, str(error)))
    adopt_orphans()
    gc.freeze()
    uvloop.run(_serve(settings, listener, make_engine))
    raise AssertionError("unreachable: the process exits inside the event loop")


def _exit(settings: Settings | None, ending: Ending) -> NoReturn:
    """Kills the child processes, reports the cause and ends the process."""
    kill_descendants()
    if settings is not None and settings.otlp_traces_endpoint is not None:
        from qwen_server.observe import tracing  # noqa: PLC0415 - imported only if tracing is on

        tracing.flush()
    if ending.code != EXIT_OK:
        path = (settings or Settings.model_construct()).termination_log
        logs.write_termination_message(path, ending.cause)
    _log.log(logging.INFO if ending.code == EXIT_OK else logging.ERROR, "exit %d: %s", ending.code, ending.cause)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ending.code)
