"""Client connections: uvicorn's protocol class with limits on time and memory per connection.

uvicorn itself waits for the headers of a request indefinitely and puts no limit on their size. It
loses the body of a request that offers to change the protocol (`Upgrade`). If requests are
pipelined, it does not notice that the client has left.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from qwen_server.config.patches import Patches, absent
from qwen_server.config.settings import ConfigurationError, Settings
from qwen_server.http.error_bodies import openai_body
from qwen_server.http.exchange import RELIED_ON, Exchange
from qwen_server.http.joined_heads import JOINED_HEADS, JoinedHeadCycle
from qwen_server.http.listeners import plain_address
from qwen_server.http.request_heads import fault_of, names_a_method, without_offer

BACKLOG = 2048
CONNECTED_AT = "connected_at"
"""In the state of a request's scope: when the client connected (`time.monotonic()`)."""
# Closing a pod's readiness gate redirects new connections only, so every connection must end
# eventually.
LIFETIME_SECONDS = 300.0
MAX_HEADER_BYTES = 65_536  # request line and all headers; common proxies allow 8 to 64 KiB
_MAX_PIPELINED = 16
_MAX_PIPELINED_BYTES = 65_536  # of the bodies of requests that wait for their turn
# A body may arrive in small chunks, each of which has a frame around it.
_FRAME_BYTES_PER_BODY_BYTE = 16
# A refused client may still be sending. If the connection closed at once, the client's kernel would
# discard the response.
_LINGER_SECONDS = 1.0

_log = logging.getLogger("qwen_server.access")


class Connection(HttpToolsProtocol):
    """One client connection. It answers what is not valid HTTP itself, in OpenAI's format."""

    header_timeout: ClassVar[float]
    body_timeout: ClassVar[float]
    lifetime: ClassVar[float]
    joins_heads: ClassVar[bool]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connected_at = time.monotonic()
        self.has_asked = False
        self._answering: Exchange | None = None
        self._offers_upgrade = False
        self.url = b""  # uvicorn sets it with the first request
        self._deadline: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._in_body = False
        self._spare_bytes = 0  # bytes of this message that are not part of its body
        self._refusal: tuple[int, str] | None = None
        # The jitter keeps clients that connected together from reconnecting together.
        self._expires_at = self.loop.time() + random.uniform(0.8, 1) * self.lifetime  # noqa: S311 - no secret

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self.client = (plain_address(self.client[0]), self.client[1])
        if self.server is not None:
            self.server = (plain_address(self.server[0]), self.server[1])
        self._arm(self.header_timeout, self._headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is being answered, and forgets those that wait for their turn."""
        self._disarm()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.leave()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses data from the client. After a refusal, data is dropped."""
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        if not (self._in_headers or self._in_body) and self._deadline is None:
            self._arm(self.header_timeout, self._headers_are_late)
        self._spare_bytes += len(data)
        self._parse(data)
        if self._refusal is None and self._spare_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        elif self._in_headers and self._deadline is None:  # the first part of a pipelined request
            self._arm(self.header_timeout, self._headers_are_late)

    def _parse(self, data: bytes) -> None:
        rest = data
        while rest and self._refusal is None:
            fed, rest = rest, b""
            try:
                self.parser.feed_data(fed)
            except httptools.HttpParserUpgrade as offer:
                rest = fed[offer.args[0] :]
                self._decline_offer()
            except httptools.HttpParserInvalidMethodError:
                if names_a_method(fed):
                    self._refuse(501, "the server does not know the method")
                else:
                    self._refuse_garbage()
            except httptools.HttpParserError:
                self._refuse_garbage()

    def _decline_offer(self) -> None:
        """Parses the head of the request again, without its offer to change the protocol.

        The parser takes whatever follows an offer for the other protocol.
        """
        self._offers_upgrade = False
        head = without_offer(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn does: data after a request with `Connection: close` is not an error.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        """Starts the request, unless its headers are refused or too many requests are pipelined.

        Once the lifetime of the connection is over, the next response closes it.
        """
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offers_upgrade = True
            return
        self._in_headers = False
        self._disarm()
        self._check_head()
        if self._refusal is None:
            super().on_headers_complete()
            self.scope["state"][CONNECTED_AT] = self.connected_at
            self.has_asked = self.has_asked or self.parser.get_method() == b"POST"
            self._in_body = True
            self.cycle.__class__ = JoinedHeadCycle if self.joins_heads else Exchange
            if self.loop.time() >= self._expires_at:
                self.cycle.keep_alive = False
            if self.pipeline:
                # uvicorn would stop reading, and nobody would notice that the client leaves.
                self.flow.resume_reading()

    def _check_head(self) -> None:
        if self._spare_bytes > MAX_HEADER_BYTES:  # most of these bytes may belong to the body
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEADER_BYTES:
                self._refuse_headers()
        elif len(self.pipeline) >= _MAX_PIPELINED:
            self._refuse(400, f"more than {_MAX_PIPELINED} requests are pipelined")
        if (fault := fault_of(self.parser.get_http_version(), self.headers)) is not None:
            self._refuse(*fault)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._spare_bytes = max(0, self._spare_bytes - _FRAME_BYTES_PER_BODY_BYTE * len(body))
        if self._refusal is not None:
            return
        waiting = sum(len(cycle.body) for cycle, _ in self.pipeline) if self.pipeline else 0
        if self._is_queued() and waiting + len(body) > _MAX_PIPELINED_BYTES:
            self._refuse(413, f"the bodies of pipelined requests are larger than {_MAX_PIPELINED_BYTES} bytes")
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived completely."""
        if self._offers_upgrade:
            return
        self._in_body = False
        self._spare_bytes = 0
        if self._refusal is not None:
            return
        self._disarm()
        super().on_message_complete()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # The rest of a body that arrived after the response has stopped the keep-alive timer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """The response is sent. If the body is still arriving, the rest has the body timeout."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._arm(self.body_timeout, self.transport.close)

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
        elif self._is_answering():  # only an empty line followed the current request
            return
        else:
            self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_queued(self) -> bool:
        """Whether the newest request waits for the answers to those before it."""
        return bool(self.pipeline) and self.pipeline[0][0] is self.cycle

    def _refuse_garbage(self) -> None:
        self._refuse(400, "the request is not valid HTTP")

    def _refuse_headers(self) -> None:
        if 2 * len(self.url) > MAX_HEADER_BYTES:
            self._refuse(414, f"the URL is larger than {MAX_HEADER_BYTES // 2} bytes")
        else:
            self._refuse(431, f"the headers are larger than the limit of {MAX_HEADER_BYTES} bytes")

    def _refuse(self, status: int, message: str) -> None:
        """Sends an error and closes the connection.

        If the application is still sending responses, the connection closes after them instead.
        """
        if self._refusal is not None or self.transport.is_closing():
            return
        self._refusal = (status, message)
        self._disarm()
        self._unset_keepalive_if_required()
        request_id = uuid.uuid4().hex
        extra = {"status": status, "request_id": request_id}
        _log.info("%s: status=%d request_id=%s", message, status, request_id, extra=extra)
        if self._in_body and self._is_queued():
            self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else self._answering
            if last is not None:
                last.keep_alive = False
        elif self._in_body and self.cycle.response_started:
            self.transport.close()
        elif not self._in_body and self._is_answering():
            self.cycle.keep_alive = False
        else:
            if self._in_body and self._answering is not None:
                self._answering.leave()  # the rest of the body will not reach the application
            self._write_refusal(status, message, request_id)

    def _write_refusal(self, status: int, message: str, request_id: str) -> None:
        content = json.dumps(openai_body(status, message)).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], lines, content))
        self.transport.write_eof()
        self._arm(_LINGER_SECONDS, self.transport.close)


# What `Connection` and the runner rely on. There is no fallback: without these limits, one client
# could exhaust the server's memory and time.
_RELIED_ON = (
    "_start_asgi_task",
    "_unset_keepalive_if_required",
    "client",
    "connection_lost",
    "connection_made",
    "cycle",
    "data_received",
    "flow",
    "headers",
    "loop",
    "on_body",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_response_complete",
    "parser",
    "pipeline",
    "scope",
    "server",
    "server_state",
    "timeout_keep_alive",
    "timeout_keep_alive_handler",
    "timeout_keep_alive_task",
    "transport",
    "url",
)


def clients_since(server: uvicorn.Server, moment: float) -> int:
    """How many open connections have been there since then and have sent requests for answers.

    `moment` is in seconds of `time.monotonic()`. Probes and scrapes do not count.
    """
    connections = [item for item in server.server_state.connections if isinstance(item, Connection)]
    return sum(item.has_asked and item.connected_at <= moment for item in connections)


def check_uvicorn() -> None:
    """Raises ConfigurationError if the installed uvicorn lacks what the limits are built on."""
    missing = [
        *absent(HttpToolsProtocol, *_RELIED_ON),
        *absent(RequestResponseCycle, *RELIED_ON),
        *absent(uvicorn.Server, "capture_signals"),
    ]
    if missing:
        raise ConfigurationError(f"uvicorn {uvicorn.__version__} is not supported: it lacks {', '.join(missing)}")


def uvicorn_config(app: Any, settings: Settings, patches: Patches) -> uvicorn.Config:
    """Returns uvicorn's configuration for `app`. Raises ConfigurationError."""
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
        access_log=False,  # http.middleware writes the access log
        server_header=False,
        proxy_headers=False,  # any client could forge them
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.keep_alive_timeout),
        timeout_graceful_shutdown=1,
    )
