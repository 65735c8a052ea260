"""Where a program listens, and the addresses of its clients."""

from __future__ import annotations

import errno
import socket
from typing import Final

_ALL_OF_IPV4: Final = "0.0.0.0"
_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
_MAPPED: Final = "::ffff:"


def open_listener(host: str | None, port: int, backlog: int) -> socket.socket:
    """Listens on the addresses of one host; with None, on all addresses of the system.

    These are of both families, on one socket. Where the system has no IPv6, they are those of IPv4.
    Raises OSError.
    """
    if host is None and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    address = host or _ALL_OF_IPV4
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=backlog)


def plain_address(host: str) -> str:
    """An address as people know it: a socket of both families shows 10.0.0.1 as ::ffff:10.0.0.1."""
    short = host.removeprefix(_MAPPED)
    return short if "." in short else host
