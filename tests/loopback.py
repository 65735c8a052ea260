"""The loopback addresses of this machine, which may have no IPv6."""

from __future__ import annotations

import contextlib
import socket


def _found() -> list[str]:
    found = ["127.0.0.1"]
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        found.append("::1")
    return found


ADDRESSES = _found()


def url(host: str, port: int) -> str:
    """The base URL of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
