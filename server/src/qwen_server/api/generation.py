"""One admitted request, from its place in the queue to the last byte of its answer.

One coroutine owns the ticket and the engine's stream. It releases both on the way out, whatever
happens: an error, a deadline, or a client that disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from qwen_server.api.bodies.body import Body
from qwen_server.api.streaming import (
    DONE,
    Chunks,
    Collector,
    EventStream,
    require_answer,
    usage_of,
)
from qwen_server.api.transcript import Transcript
from qwen_server.control.admission import DisplacedError, QueueTimeoutError, Ticket
from qwen_server.control.refusals import BUSY_TEXT, DRAINING_TEXT, SLEEPING_TEXT, TIMEOUT_TEXT
from qwen_server.control.service import Service
from qwen_server.engine.base import BusyError, EngineError, EngineRestartedError, InvalidRequestError, Output, Turn
from qwen_server.http.asgi import RawHeaders, Receive, Send, send_content, send_error, send_json
from qwen_server.http.dialects import DIALECTS
from qwen_server.http.disconnects import ClientSend, UntilDisconnect
from qwen_server.http.early_writes import DirectEvents, Outbox, connection_of
from qwen_server.http.error_bodies import (
    INTERNAL_TEXT,
    ClientDisconnectedError,
    HttpError,
    client_error,
    engine_failure,
    interrupted,
    refused,
)
from qwen_server.observe.request_figures import Outcome, RequestRecord

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_log = logging.getLogger(__name__)
_ERROR_SECONDS = 5.0
# The errors of an accepted request that are no failures.
_REFUSALS = frozenset({"queue_timeout", "displaced", "grammars_busy", "sleeping"})


class Generation:
    """The answer to one request that was admitted."""

    def __init__(self, service: Service, body: Body, record: RequestRecord, *, outbox: Outbox | None = None) -> None:
        self._service = service
        self._body = body
        self._record = record
        record.generates = body.generates
        record.prompts = body.prompts
        self._outbox = outbox  # without it, the task writes all events
        self._dialect = DIALECTS[body.kind]
        self._id = self._dialect.id_prefix + secrets.token_hex(16)
        self._created = int(time.time())
        self._stream: EventStream | None = None
        self._events = 0
        self._answered = False
        self._transcript = Transcript(body.fields) if service.settings.log_prompts else None

    @property
    def weight(self) -> int:
        """The slots that each turn needs: the sequences that cannot wait for one another.

        vLLM's own serving code generates all choices of a prompt together.
        """
        return 1 if self._is_fast() else self._body.n

    async def serve(self, ticket: Ticket, receive: Receive, send: Send) -> None:
        """Answers. Every outcome is counted exactly once, and the client gets every error."""
        service = self._service
        service.figures.accept(self._record.tenant)
        outcome: Outcome = "failed"
        reason: str | None = "internal"
        try:
            with service.lifecycle.track():
                client = ClientSend(send, connection_of(receive), service.clock)
                outcome, reason = await self._accepted(ticket, receive, client)
        except asyncio.CancelledError:
            outcome, reason = "aborted", None
            raise
        finally:
            # A request that is too long for its deadline says nothing about the engine. Otherwise
            # its client alone could raise HighErrorRate.
            # The same holds for what waited for a restart of the engine.
            paused = service.lifecycle.restarts.paused_seconds(self._record.arrival) > 0
            judged = not paused and not (reason == "timeout" and service.works())
            service.figures.finish(self._record, outcome, reason, judged=judged)
            if self._transcript is not None:
                self._transcript.log()

    async def _accepted(self, ticket: Ticket, receive: Receive, send: ClientSend) -> tuple[Outcome, str | None]:
        try:
            try:
                await self._within_deadline(ticket, receive, send)
                self._answered = True
            finally:
                self._service.admission.leave(ticket, generated=self._answered and self._body.generates)
        except ClientDisconnectedError:
            return "aborted", None
        except HttpError as error:
            # A deadline that passes while the client does not read is not the server's failure.
            held_up = error.kind == "timeout" and send.held_up(self._service.clock() - self._record.arrival)
            await self._send_error(send, error)
            if held_up:
                return "aborted", None
            if error.status < 500:
                self._record.param = error.param
                return "rejected", error.kind
            return ("refused" if error.kind in _REFUSALS else "failed"), error.kind
        finally:
            if self._stream is not None:
                self._stream.close()
        return "successful", None

    async def _within_deadline(self, ticket: Ticket, receive: Receive, send: Send) -> None:
        """Waits for the turn, then serves. Raises HttpError or ClientDisconnectedError."""
        service = self._service
        left = self._record.arrival + service.settings.request_timeout - service.clock()
        try:
            async with asyncio.timeout(max(left, 0)) as deadline, UntilDisconnect(receive):
                with service.lifecycle.at_most_until(deadline):
                    connection = None if self._outbox is None else connection_of(receive)
                    await self._in_turn(ticket, connection, send)
        except (HttpError, ClientDisconnectedError):
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                if service.lifecycle.given_up:
                    raise refused(service.refuse("draining", DRAINING_TEXT, 1)) from None
                if service.sleep.active:
                    raise refused(service.refuse("sleeping", SLEEPING_TEXT, 10)) from None
                raise refused(service.refuse("timeout", TIMEOUT_TEXT)) from None
            _log.exception("request %s failed", self._record.request_id)
            raise HttpError(500, {"error": INTERNAL_TEXT}, kind="internal") from error

    async def _in_turn(self, ticket: Ticket, connection: RequestResponseCycle | None, send: Send) -> None:
        service = self._service
        try:
            await self._wait(ticket)
            self._record.granted = service.clock()
            turn = functools.partial(service.admission.turn, ticket)
            if self._is_fast():
                await self._serve_fast(turn, connection, send)
            else:
                await self._serve_reference(turn, send)
        except QueueTimeoutError:
            raise refused(service.refuse("queue_timeout", BUSY_TEXT, tenant=self._record.tenant)) from None
        except DisplacedError:
            raise refused(service.refuse("displaced", BUSY_TEXT, tenant=self._record.tenant)) from None
        except BusyError as error:
            _log.warning("%s", error)
            raise refused(service.refuse("grammars_busy", BUSY_TEXT)) from None
        except InvalidRequestError as error:
            param = self._body.blamed(error.param)
            raise client_error(error.status, error.message, param=param, code=error.code) from None
        except EngineRestartedError as error:
            _log.error("request %s failed: %s", self._record.request_id, error)
            raise interrupted(str(error)) from error
        except EngineError as error:
            raise self._engine_failure(error) from error

    async def _wait(self, ticket: Ticket) -> None:
        """Waits for the first turn, for the queue's timeout and while the engine is away."""
        service = self._service
        seconds, counted = service.settings.queue_timeout, 0.0
        while True:
            try:
                await service.admission.wait(ticket, seconds)
            except QueueTimeoutError:
                paused = service.lifecycle.restarts.paused_seconds(self._record.arrival)
                if paused <= counted:
                    raise
                seconds, counted = paused - counted, paused
            else:
                return

    def _engine_failure(self, error: EngineError) -> HttpError:
        """The HTTP error of a failed engine; a dead one has its cause in the vital signs."""
        cause = self._service.engine.vitals().death_cause
        _log.error("request %s failed: %s", self._record.request_id, cause or error)
        return engine_failure(cause or str(error))

    def _is_fast(self) -> bool:
        return self._body.fast and not (self._body.kind == "chat" and self._service.engine.info.chats_need_parsing)

    async def _serve_fast(self, turn: Turn, connection: RequestResponseCycle | None, send: Send) -> None:
        body, record, engine = self._body, self._record, self._service.engine
        prepare = engine.prepare_chat if body.kind == "chat" else engine.prepare_completion
        prepared = await prepare(body.fields, self._id, record.arrival)
        record.prompt_tokens = prepared.prompt_tokens
        choices = prepared.prompts * prepared.n
        if not body.stream:
            async with aclosing(cast("Any", engine.generate(prepared, None, turn))) as outputs:
                await self._collect_outputs(outputs, choices, send)
            return
        chunks = Chunks(body.kind, self._id, self._created, body.model, stop_reasons=body.stop_reasons)
        direct = None
        if self._outbox is not None and connection is not None and choices == 1 and self._transcript is None:
            figures, clock = self._service.figures, self._service.clock
            direct = DirectEvents(connection, chunks, record, figures, clock=clock, outbox=self._outbox)
        async with aclosing(cast("Any", engine.generate(prepared, direct, turn))) as outputs:
            await self._stream_outputs(outputs, chunks, direct, send)

    async def _collect_outputs(self, outputs: AsyncIterator[Output], choices: int, send: Send) -> None:
        collector = Collector(self._body.kind, choices, stop_reasons=self._body.stop_reasons)
        async for output in outputs:
            self._observe(output)
            require_answer(output)
            collector.add(output)
        body = collector.body(self._id, self._created, self._body.model, self._usage())
        await send_json(send, 200, body, [self._timing()])

    async def _stream_outputs(
        self, outputs: AsyncIterator[Output], chunks: Chunks, direct: DirectEvents | None, send: Send
    ) -> None:
        stream = self._begin_stream(send, direct)
        # Sent only after the engine's stream has ended: as soon as an answer is complete, uvicorn
        # reports its client as disconnected.
        ending: bytes | None = None
        async for output in outputs:
            if direct is not None:
                direct.shut()
            self._observe(output)
            require_answer(output)
            data = chunks.of(output)
            if output.finished:
                tail = chunks.usage(self._usage()) if self._body.include_usage else b""
                ending = data + tail + DONE
            elif data:
                await stream.write(data)
            if direct is not None and ending is None:
                direct.open()
        if ending is None:
            raise EngineError("the engine ended without finishing the request")
        await stream.end(ending)

    def _usage(self) -> dict[str, Any]:
        record = self._record
        cached = record.cached_tokens if self._service.settings.enable_prompt_tokens_details else None
        return usage_of(record.prompt_tokens, record.output_tokens, cached)

    async def _serve_reference(self, turn: Turn, send: Send) -> None:
        body, engine = self._body, self._service.engine
        stream = self._begin_stream(send) if body.stream else None
        answer = await engine.reference(
            body.kind, body.fields, self._id, self._record.arrival, self._observe_reference, turn=turn
        )
        if answer.stream is not None and stream is not None:
            async with aclosing(cast("Any", answer.stream)) as lines:
                await self._relay(lines, stream)
        elif answer.content is not None:
            await send_content(send, answer.status, answer.content, [self._timing()])
        else:
            await send_json(send, answer.status, answer.body, [self._timing()])

    async def _relay(self, lines: AsyncIterator[str], stream: EventStream) -> None:
        """Forwards the events of the reference path."""
        # Sent only after the engine's stream has ended, as above.
        ending: bytes | None = None
        async for line in lines:
            if line.startswith(self._dialect.ending):
                ending = line.encode()
            else:
                self._events += 1
                await stream.write(line.encode())
        if ending is None:
            raise EngineError("the engine ended without finishing the request")
        await stream.end(ending)

    def _begin_stream(self, send: Send, direct: DirectEvents | None = None) -> EventStream:
        self._stream = EventStream(
            send, self._stream_headers, keep_alive=self._dialect.keep_alive, direct=direct, clock=self._service.clock
        )
        self._stream.arm()
        return self._stream

    def _observe(self, output: Output) -> None:
        """Counts an output.

        A stream's first token counts when it is sent, as its client sees it.
        """
        if self._transcript is not None:
            self._transcript.add(output)
        self._record.cached_tokens += output.cached_tokens
        self._service.figures.gain(
            self._record,
            sum(delta.tokens for delta in output.deltas),
            self._service.clock(),
            choices=len(output.deltas),
            first_at=None if self._body.stream else output.first_token_at,
        )

    def _observe_reference(self, output: Output) -> None:
        self._record.prompt_tokens += output.prompt_tokens
        self._observe(output)

    def _stream_headers(self) -> RawHeaders:
        return [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            self._timing(),
        ]

    def _timing(self) -> tuple[bytes, bytes]:
        """Server-Timing: milliseconds in the queue, to the first token, and from there to now."""
        record, now = self._record, self._service.clock()
        granted = now if record.granted is None else record.granted
        first = now if record.first_token is None else record.first_token
        parts = (("queue", granted - record.arrival), ("prefill", first - granted), ("decode", now - first))
        return b"server-timing", ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in parts).encode()

    async def _send_error(self, send: ClientSend, error: HttpError) -> None:
        """Sends an error: as an HTTP status if nothing was sent yet, else as the last event.

        Gives up on a client that has disconnected or does not read.
        """
        with contextlib.suppress(ClientDisconnectedError, TimeoutError):
            async with asyncio.timeout(_ERROR_SECONDS):
                if not send.started:
                    if self._stream is not None:
                        self._stream.close()
                    await send_error(send, self._dialect.whole(error))
                elif self._stream is not None and not self._stream.ended:
                    await self._stream.end(self._dialect.event(error, self._events))
        send.abandon()
