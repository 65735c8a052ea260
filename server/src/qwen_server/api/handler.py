"""The order in which every request for an answer is served, from its first byte to its last.

The steps come in the order of their cost. Each may refuse the request before the next one costs
more.
"""

from __future__ import annotations

import asyncio
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial

from starlette.datastructures import Headers

from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.checking import Bodies
from qwen_server.api.generation import Generation
from qwen_server.api.tasks import refusal_of
from qwen_server.control.adapters import AdapterError, Served
from qwen_server.control.admission import QueueFullError, Ticket
from qwen_server.control.refusals import BUSY_TEXT, RESTARTING_TEXT
from qwen_server.control.service import Service
from qwen_server.control.shares import DEFAULT_TENANT
from qwen_server.engine.base import Adapter, BusyError, EngineError, InvalidRequestError, Kind
from qwen_server.http.asgi import Receive, Scope, Send, send_error
from qwen_server.http.body import BodyReader, UploadsFullError
from qwen_server.http.connections import CONNECTED_AT
from qwen_server.http.dialects import DIALECTS
from qwen_server.http.disconnects import UntilDisconnect
from qwen_server.http.early_writes import Outbox
from qwen_server.http.error_bodies import (
    ClientDisconnectedError,
    HttpError,
    client_error,
    engine_failure,
    model_not_found,
    refused,
)
from qwen_server.http.rate_limits import RateLimiter
from qwen_server.observe.request_figures import RequestRecord

_log = logging.getLogger(__name__)
RESTART_RETRY_SECONDS = 5
_LARGE_BYTES = 1 << 16  # below, parsing takes less than the handover to a thread


class Handler:
    """Serves the requests of one application."""

    def __init__(
        self, service: Service, limiter: RateLimiter, reader: BodyReader, bodies: Bodies, *, early_writes: bool
    ) -> None:
        self._service = service
        self._limiter = limiter
        self.reader = reader
        self.bodies = bodies
        self._outbox = Outbox() if early_writes else None
        # One thread, because several would share the interpreter and only delay each other.
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="parser")

    async def serve(self, kind: Kind, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; it is counted exactly once, whatever its outcome."""
        with ExitStack() as until_answered:
            await self._serve(kind, scope, receive, send, until_answered=until_answered)

    async def _serve(
        self, kind: Kind, scope: Scope, receive: Receive, send: Send, *, until_answered: ExitStack
    ) -> None:
        service, record = self._service, scope["state"]["record"]
        try:
            await self._limiter.check(scope["state"].get("caller", ""))  # 429
            self._require_task(kind)  # 404 a path of servers for another task
            self._require_service(scope)  # 503 starting, draining or unresponsive; 500 dead
            raw = await self._read(scope, receive, record.tenant)  # 408, 413, 415; 503 too many uploads
            body = await self._parse(kind, raw)  # 400, 404
            if body.adapter is not None:
                until_answered.callback(self._hold(body.adapter, record).release)  # 404
            self._require_service(scope)  # reading the body may have taken a while
            if body.constrained:
                await self._check_grammar(body, receive)  # 400; 503 too many grammars
                self._require_service(scope)
            generation = Generation(service, body, record, outbox=self._outbox)
            ticket = self._admit(generation, record.tenant)  # 503 queue full
        except HttpError as error:
            record.param = error.param
            service.figures.turn_away(record, "rejected" if error.status < 500 else "refused", error.kind)
            await send_error(send, DIALECTS[kind].whole(error))
            return
        except ClientDisconnectedError:
            service.figures.turn_away(record, "rejected", "client_left")
            raise
        # Waits for its turn, asks the engine, and writes the answer's bytes.
        await generation.serve(ticket, receive, send)

    def _hold(self, adapter: Adapter, record: RequestRecord) -> Served:
        """Keeps the adapter that the request names. It may have gone while the body was read."""
        record.adapter = adapter.name
        try:
            return self._service.adapters.hold(adapter)
        except AdapterError as error:
            why = self._service.adapters.why_missing(adapter.name)
            raise model_not_found(adapter.name, why) from error

    def _require_service(self, scope: Scope) -> None:
        if (refusal := self._service.refusal(scope["state"].get(CONNECTED_AT, math.inf))) is not None:
            raise refused(refusal)

    def _require_task(self, kind: Kind) -> None:
        if (error := refusal_of(kind, self._service.settings.task)) is not None:
            raise error

    async def _read(self, scope: Scope, receive: Receive, tenant: str) -> bytes:
        try:
            return await self.reader.read(Headers(scope=scope), receive, tenant)
        except UploadsFullError:
            raise refused(self._service.refuse("uploads_full", BUSY_TEXT)) from None

    async def _parse(self, kind: Kind, raw: bytes) -> Body:
        """Parses and checks a body; a large one in a thread, so that others get their share."""
        if len(raw) <= _LARGE_BYTES:
            return self.bodies.parse(kind, raw)
        parse = partial(copy_context().run, self.bodies.parse, kind, raw)
        return await asyncio.get_running_loop().run_in_executor(self._parser, parse)

    async def _check_grammar(self, body: Body, receive: Receive) -> None:
        """Waits for the check of the grammar, unless the client leaves. Takes no slot."""
        if self._service.engine_is_away():
            # What waits without a slot has no bound.
            raise refused(self._service.refuse("restarting", RESTARTING_TEXT, RESTART_RETRY_SECONDS))
        try:
            async with UntilDisconnect(receive):
                await self._service.engine.check_grammar(body.kind, body.fields)
        except InvalidRequestError as error:
            param = body.blamed(error.param)
            raise client_error(error.status, error.message, param=param, code=error.code) from None
        except BusyError as error:
            _log.warning("%s", error)
            raise refused(self._service.refuse("grammars_busy", BUSY_TEXT)) from None
        except EngineError as error:
            raise engine_failure(self._service.engine.vitals().death_cause or str(error)) from error

    def _admit(self, generation: Generation, tenant: str) -> Ticket:
        try:
            return self._service.admission.enter(generation.weight, tenant or DEFAULT_TENANT)
        except QueueFullError:
            raise refused(self._service.refuse("queue_full", BUSY_TEXT, tenant=tenant)) from None
