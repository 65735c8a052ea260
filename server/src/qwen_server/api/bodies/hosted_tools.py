"""Tools that a provider's own servers run, such as web search.

Agents offer them with every request, although the model may never need one. They are left out, with
one line in the log, so that the rest of the request is served. A request that forces the model to
call one is refused, because nothing here could answer the call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from qwen_server.http.error_bodies import HttpError, invalid

_log = logging.getLogger(__name__)
_MAX_LOGGED = 8


def log_left_out(types: Iterable[str]) -> None:
    """Logs the types of the tools that a request lost; nothing if there are none."""
    names = sorted({name[:64] for name in types})
    if names:
        _log.info("left out tools that only their provider runs: %r", ", ".join(names[:_MAX_LOGGED]))


def not_run_here(tool_type: str, place: str) -> HttpError:
    """The error for a `tool_choice` that names such a tool. `place` is the name's place."""
    text = f"{place} names a tool that this server does not run: {tool_type[:64]}"
    return invalid(f"{text}; choose one of the functions in tools, or auto", place)


def take_out_choice(fields: dict[str, Any], needs_tools: bool) -> None:
    """Removes the `tool_choice` of a request without tools.

    Raises HttpError 400 if it forces the model to call one.
    """
    choice = fields.pop("tool_choice", None)
    if choice is not None and needs_tools:
        raise invalid("tool_choice forces a call, but the request has no tools that run here", "tool_choice")
