"""Clients' connections: uvicorn's own protocol, with bounds on the time and the memory that each of them may take.

uvicorn waits for the headers of a request as long as they take, and reads as many of them as come.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from qwen_server.config.patches import Patches, absent
from qwen_server.config.settings import ConfigurationError, Settings
from qwen_server.http.error_bodies import openai_body
from qwen_server.http.joined_heads import JOINED_HEADS, JoinedHeadCycle

BACKLOG = 2048
# Closing the gate of a pod moves new connections only, so no connection lives for ever.
LIFETIME_SECONDS = 300.0
MAX_HEADER_BYTES = 65_536  # of the request line and all headers; common proxies allow 8 to 64 KiB
_MAX_PIPELINED = 16
# A body may come in small chunks, each with a frame of its own around it.
_FRAME_BYTES_PER_BODY_BYTE = 16
# A refused client may still be sending; closing at once would make its kernel throw the answer away.
_LINGER_SECONDS = 1.0

_log = logging.getLogger("qwen_server.access")


class Connection(HttpToolsProtocol):
    """A connection of one client. Answers 400, 408 and 431 in OpenAI's shape where no request came to be."""

    header_timeout: ClassVar[float]
    body_timeout: ClassVar[float]
    lifetime: ClassVar[float]
    joins_heads: ClassVar[bool]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._in_body = False
        self._spare_bytes = 0  # of this message, and not of its body
        self._refusal: tuple[int, str] | None = None
        # Not all at once: what was opened together would come back together.
        self._old_at = self.loop.time() + random.uniform(0.8, 1) * self.lifetime  # noqa: S311 - no secret

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(self.header_timeout, self._headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's; those of one that was refused are dropped."""
        if self._refusal is not None:
            return
        if not (self._in_headers or self._in_body) and self._deadline is None:
            self._arm(self.header_timeout, self._headers_are_late)
        self._spare_bytes += len(data)
        super().data_received(data)
        if self._refusal is None and self._spare_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        elif self._in_headers and self._deadline is None:  # the first part of a pipelined request
            self._arm(self.header_timeout, self._headers_are_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        """A request begins, unless its headers are too large or too many others wait for their turn.

        The answer to the first one after the connection's lifetime is its last.
        """
        self._in_headers = False
        self._disarm()
        if self._spare_bytes > MAX_HEADER_BYTES:  # what has come so far may be mostly the body
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEADER_BYTES:
                self._refuse_headers()
        elif len(self.pipeline) >= _MAX_PIPELINED:
            self._refuse(400, f"more than {_MAX_PIPELINED} requests are pipelined")
        if self._refusal is None:
            super().on_headers_complete()
            self._in_body = True
            if self.joins_heads:
                self.cycle.__class__ = JoinedHeadCycle
            if self.loop.time() >= self._old_at:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._spare_bytes = max(0, self._spare_bytes - _FRAME_BYTES_PER_BODY_BYTE * len(body))
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there as a whole."""
        self._in_body = False
        self._spare_bytes = 0
        if self._refusal is not None:
            return
        self._disarm()
        super().on_message_complete()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # The rest of a body that nobody waited for has stopped the timer of the idle connection.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """An answer is sent; if it came before the whole request, the rest has its time, too."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._arm(self.body_timeout, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser does not take for HTTP."""
        self._refuse(400, "the request is not valid HTTP")

    def _arm(self, seconds: float, act: Callable[[], None]) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, act)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _headers_are_late(self) -> None:
        self._deadline = None
        if self._in_headers:
            self._refuse(408, f"the headers did not arrive within {self.header_timeout:g} s")
        elif self._answers():  # of a pipelined request there was nothing but an empty line
            return
        else:
            self.transport.close()

    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse_headers(self) -> None:
        self._refuse(431, f"the headers are larger than the limit of {MAX_HEADER_BYTES} bytes")

    def _refuse(self, status: int, message: str) -> None:
        """Answers and closes; while an answer of the application is on its way, the connection ends with that one."""
        if self._refusal is not None or self.transport.is_closing():
            return
        self._refusal = (status, message)
        self._disarm()
        self._unset_keepalive_if_required()
        request_id = uuid.uuid4().hex
        extra = {"status": status, "request_id": request_id}
        _log.info("%s: status=%d request_id=%s", message, status, request_id, extra=extra)
        if self._in_body:
            if self.pipeline or self.cycle.response_started:
                self.transport.close()
                return
            self.cycle.disconnected = True  # the application waits for the rest of the body in vain
            self.cycle.message_event.set()
        elif self._answers():
            self.cycle.keep_alive = False
            return
        content = json.dumps(openai_body(status, message)).encode()
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[status], len(content), request_id.encode(), content)
        )
        self.transport.write_eof()
        self._arm(_LINGER_SECONDS, self.transport.close)


# What `Connection` and the runner rely on. There is nothing to fall back to: without the bounds, one client could hold
# the server's memory and time.
_RELIED_ON = (
    "_unset_keepalive_if_required",
    "connection_lost",
    "connection_made",
    "cycle",
    "data_received",
    "headers",
    "loop",
    "on_body",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_response_complete",
    "pipeline",
    "send_400_response",
    "timeout_keep_alive",
    "timeout_keep_alive_handler",
    "timeout_keep_alive_task",
    "transport",
    "url",
)


def check_uvicorn() -> None:
    """Raises ConfigurationError where the installed uvicorn lacks what the bounds on connections are made of."""
    missing = [*absent(HttpToolsProtocol, *_RELIED_ON), *absent(uvicorn.Server, "capture_signals")]
    if missing:
        raise ConfigurationError(f"uvicorn {uvicorn.__version__} is not supported: it has no {', '.join(missing)}")


def uvicorn_config(app: Any, settings: Settings, patches: Patches) -> uvicorn.Config:
    """How the HTTP server runs `app`. Raises ConfigurationError."""
    check_uvicorn()

    class OfSettings(Connection):
        header_timeout = settings.header_timeout
        body_timeout = settings.body_timeout
        lifetime = LIFETIME_SECONDS
        joins_heads = patches.use(JOINED_HEADS)

    return uvicorn.Config(
        app,
        http=OfSettings,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # the application writes its own lines
        server_header=False,
        proxy_headers=False,  # a connection is known by its own address, whatever a header says
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.keep_alive_timeout),
        timeout_graceful_shutdown=1,
    )
