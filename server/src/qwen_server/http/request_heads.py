"""The rules of HTTP/1.1 for the head of a request that uvicorn's parser does not check."""

from __future__ import annotations

import re
from collections.abc import Iterable

RawHeaders = Iterable[tuple[bytes, bytes]]

# A host and a port, or nothing (RFC 9110, section 7.2).
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")
# What a request begins with, whatever its method.
_REQUEST_LINE = re.compile(rb"\s*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40} \S")
_UNKNOWN_CODING = (501, "the only supported Transfer-Encoding is chunked")
_OFFER = (b"upgrade", b"http2-settings")


def fault_of(version: str, headers: RawHeaders) -> tuple[int, str] | None:
    """Returns the status and the text with which a request is refused; None for a good one.

    `version` is that of HTTP, such as 1.1. The names of the headers are in lower case.
    """
    if version not in ("1.0", "1.1"):
        return 505, f"HTTP/{version} is not supported, use HTTP/1.1"
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if _HOST.fullmatch(value) is None:
                return 400, "the header Host is not a host name"
        elif name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
            return (400, "HTTP/1.0 has no Transfer-Encoding") if version == "1.0" else _UNKNOWN_CODING
        elif name == b"expect" and version != "1.0" and value.lower() != b"100-continue":
            return 417, "the only supported expectation is 100-continue"
    if hosts != 1 and (hosts or version != "1.0"):
        return 400, "a request needs exactly one header Host"
    return None


def without_offer(method: bytes, url: bytes, version: str, headers: RawHeaders) -> bytes:
    """Returns the head of a request without its offer to change the protocol (`Upgrade`)."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in headers:
        kept = value
        if name == b"connection":
            kept = b",".join(token for token in value.split(b",") if token.strip().lower() not in _OFFER)
        if name not in _OFFER and (kept or not value):
            lines.append(b"%b: %b\r\n" % (name, kept))
    return b"".join([*lines, b"\r\n"])


def names_a_method(data: bytes) -> bool:
    """Returns whether `data`, refused by the parser for its method, begins like a request."""
    return _REQUEST_LINE.match(data) is not None
