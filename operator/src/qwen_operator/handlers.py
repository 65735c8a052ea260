"""kopf is the frame of the leader's process: what it ends with, everything ends with.

`kopf.operator` is the main coroutine while this process leads. Its startup handler starts the
operator's tasks, its cleanup handler stops them. SIGTERM, a failure of kopf and a failure of the
tasks all take this path, so that no part is left that looks alive. kopf watches nothing. See
docs/decisions/0009-what-kopf-does-here.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import kopf


def build_registry(start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> kopf.OperatorRegistry:
    """The handlers. `start` and `stop` are awaited once."""
    registry = kopf.OperatorRegistry()

    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        # kopf reads which kinds exist once, at its start. To follow that, it would need permissions
        # for definitions and namespaces.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.networking.request_timeout = 30.0
        settings.networking.connect_timeout = 10.0
        await start()

    def login(**options: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG"):
            return kopf.login_with_kubeconfig(**options)
        return kopf.login_with_service_account(**options)

    async def cleanup(**_: Any) -> None:
        await stop()

    kopf.on.startup(registry=registry)(startup)
    kopf.on.login(registry=registry)(login)
    kopf.on.cleanup(registry=registry)(cleanup)
    return registry


async def run_frame(
    start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]], ending: asyncio.Event
) -> None:
    """Runs kopf until `ending` is set, SIGTERM arrives, or it fails, then raises its error.

    kopf cancels all tasks of the event loop that were started after it.
    """
    # Without an identity, kopf asks for the user's name. A user that a cluster chose may have none.
    await kopf.operator(
        registry=build_registry(start, stop),
        identity="qwen-operator",
        clusterwide=True,
        standalone=True,
        stop_flag=ending,
    )
