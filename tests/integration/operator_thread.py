"""The operator in a thread of the tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from qwen_operator.acting import Acting
from qwen_operator.controller import Controller
from qwen_operator.kube.client import KubeClient
from qwen_operator.process.health import Health
from qwen_operator.process.settings import read_settings
from qwen_operator.remediation.poll import Poller

IMAGES = {"QWEN_OPERATOR_SERVER_IMAGE_CPU": "server:cpu", "QWEN_OPERATOR_SERVER_IMAGE_CUDA": "server:cuda"}


class OperatorThread:
    """The operator in a thread of the tests, without leader election.

    It watches one namespace, or several whose names are separated by commas.
    """

    def __init__(self, kubeconfig: Path, namespace: str, url_of: Callable[[str], str]) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self.health = Health()
        self._url_of = url_of
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="operator")
        self._running = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self.controller: Controller | None = None

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        env = {**IMAGES, "QWEN_OPERATOR_WATCH_NAMESPACES": self._namespace, "QWEN_OPERATOR_POD_NAME": "test"}
        settings = read_settings(["--namespace", "qwen-system"], env)
        try:
            kube = await KubeClient.connect(str(self._kubeconfig))
            self.controller = Controller(kube, settings, self.health, Poller(self._url_of, shortest=0.1))
            acting = Acting(self.controller, self._stop, kube.close)
            running = asyncio.create_task(acting.run())
            while not self.health.ready and not running.done():  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.05)
            self._running.set()
            assert await running == 0, "the operator failed"
        except BaseException as error:  # noqa: BLE001 - it is raised again where the test waits
            self._failure = error
        finally:
            self._running.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._running.wait(30), "the operator did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def reconcile(self, name: str = "news") -> None:
        """Reconciles a service without a cause, like the resync."""
        assert self._loop is not None
        assert self.controller is not None
        self._loop.call_soon_threadsafe(self.controller._queue.add, (self._namespace, name))

    def stop(self) -> None:
        """Stops the operator; fails if it had failed."""
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the operator did not stop"
        if self._failure is not None:
            raise self._failure
