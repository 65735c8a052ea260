"""kopf watches the QwenServices and passes each change on to the controller. It does nothing else.

There is only a handler for raw events, so kopf writes no annotations and no finalizers and keeps no
state. It runs in a thread with its own event loop, because when it stops it cancels all tasks that
were started in its loop after it. See docs/decisions/0009-what-kopf-does-here.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import kopf

from qwen_operator.api import GROUP, PLURAL, VERSION
from qwen_operator.api.objects import Key, Object, key_of

logger = logging.getLogger(__name__)


def build_registry(seen: Callable[[Object], None], gone: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """The handlers. `seen` and `gone` are called in kopf's thread."""
    registry = kopf.OperatorRegistry()

    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        # The resource is known by name. Scanning would need permissions for CRDs and namespaces.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.networking.request_timeout = 30.0
        settings.networking.connect_timeout = 10.0

    def login(**options: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG"):
            return kopf.login_with_kubeconfig(**options)
        return kopf.login_with_service_account(**options)

    async def changed(event: dict[str, Any], **_: Any) -> None:
        obj = dict(event["object"])
        if event["type"] == "DELETED":
            gone(key_of(obj))
        else:
            seen(obj)

    kopf.on.startup(registry=registry)(configure)
    kopf.on.login(registry=registry)(login)
    kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(changed)
    return registry


class KopfThread:
    """The thread in which kopf runs.

    `died` is called in the caller's loop if kopf stops by itself.
    """

    def __init__(
        self,
        seen: Callable[[Object], None],
        gone: Callable[[Key], None],
        died: Callable[[], None],
        namespaces: tuple[str, ...],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._died = died
        self._namespaces = namespaces
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._registry = build_registry(self._from_thread(seen), self._from_thread(gone))
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    async def started(self, timeout: float = 10.0) -> bool:
        """Waits for kopf to start. Returns False after the timeout."""
        return await asyncio.to_thread(self._ready.wait, timeout)

    async def stop(self, timeout: float = 10.0) -> None:
        """Stops kopf and waits for the thread."""
        self._stop.set()
        if self._thread.ident is None:
            return
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            logger.warning("kopf did not stop in time")

    def _from_thread(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        return lambda value: self._tell(lambda: call(value))

    def _tell(self, call: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _run(self) -> None:
        where: dict[str, Any] = {"namespaces": self._namespaces} if self._namespaces else {"clusterwide": True}
        flags = {"stop_flag": self._stop, "ready_flag": self._ready}
        try:
            asyncio.run(kopf.operator(registry=self._registry, standalone=True, **flags, **where))
        except Exception:  # the process exits and Kubernetes restarts it
            logger.exception("kopf failed")
        if not self._stop.is_set():
            self._tell(self._died)
