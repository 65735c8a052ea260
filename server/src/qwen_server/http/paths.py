"""Paths and methods as clients write them, in the form that the routes know."""

from __future__ import annotations

import re

from qwen_server.http.asgi import Scope

# These pages have relative links, which a slash at the end would break.
_PAGES = ("/docs/", "/redoc/")
_SLASHES = re.compile("/{2,}")


def routed(scope: Scope) -> Scope:
    """Returns the scope for the routes: HEAD becomes GET, and slashes too many are left out.

    The server leaves the body out of the response to a HEAD by itself. Slashes come from clients
    whose base URL ends with one. They must go before the path is compared with protected ones.
    """
    path = scope["path"]
    changed: dict[str, object] = {}
    if "//" in path or path.endswith("/"):
        path = _SLASHES.sub("/", path)
        changed["path"] = path if path in _PAGES else path.rstrip("/") or "/"
    if scope["method"] == "HEAD":
        changed["method"] = "GET"
    return {**scope, **changed} if changed else scope


def allowed_methods(allow: str) -> str:
    """Returns the header `Allow` for a path whose routes have the methods in `allow`."""
    methods = {name.strip() for name in allow.split(",")} - {""} | {"OPTIONS"}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
