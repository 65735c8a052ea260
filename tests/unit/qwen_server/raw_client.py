"""A client that controls every byte of its requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.unit.qwen_server.serving import Served

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self, seconds: float = 20.0, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body of the next answer, which has a Content-Length or no body.

        `bodiless` is for answers to HEAD.
        """
        async with asyncio.timeout(seconds):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = 0 if bodiless else int(headers.get("content-length", "0"))
            return int(lines[0].split()[1]), headers, await self.reader.readexactly(length)

    def reset(self) -> None:
        """Ends the connection with RST."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def ends(self, seconds: float = 20.0) -> bytes:
        """Everything until the server closes or resets the connection."""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
            return b""

    async def refused(self, status: int) -> str:
        """The message of an error in OpenAI's format, after which the connection closes."""
        found, headers, body = await self.answer()
        error: dict[str, Any] = json.loads(body)["error"]
        assert (found, set(error)) == (status, {"message", "type", "param", "code"})
        assert headers["connection"] == "close"
        assert headers["x-request-id"]
        assert await self.ends() == b""
        return str(error["message"])


@contextlib.asynccontextmanager
async def connect(served: Served) -> AsyncIterator[Client]:
    address = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 24)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def post(body: bytes, *, length: int | None = None, path: str = "/v1/completions") -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + body
