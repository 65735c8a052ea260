"""The loopback addresses of this machine, which may have no IPv6, and what clients there need."""

from __future__ import annotations

import contextlib
import socket
import ssl


def _found() -> list[str]:
    found = ["127.0.0.1"]
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        found.append("::1")
    return found


ADDRESSES = _found()
# Without it, each call of httpx and each of its clients reads the certificates of all authorities,
# which takes 40 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def url(host: str, port: int) -> str:
    """The base URL of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
