"""kopf: it watches the QwenServices and tells the controller. Nothing else is left to it.

Only events are handled, level-triggered, so kopf writes no annotation and no finalizer, and keeps no state of its own.
It runs in a thread with a loop of its own, because at its end it cancels every task of the loop that it finds.
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
    """The handlers; `seen` and `gone` are called from kopf's thread."""
    registry = kopf.OperatorRegistry()

    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        # one resource, known by name: no need to look for custom resources and namespaces, nor a right to
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
    """kopf in its thread. `died` is called in the caller's loop when it ends without being asked to."""

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
        """Whether kopf is up, after waiting for it."""
        return await asyncio.to_thread(self._ready.wait, timeout)

    async def stop(self, timeout: float = 10.0) -> None:
        """Asks kopf to end and waits for it."""
        self._stop.set()
        if self._thread.ident is None:
            return
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            logger.warning("kopf did not end in time")

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
        except Exception:  # the process ends for it, which is what Kubernetes mends
            logger.exception("kopf failed")
        if not self._stop.is_set():
            self._tell(self._died)
