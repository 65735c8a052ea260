"""`python -m qwen_operator`: become leader, then act until the Lease is lost or SIGTERM arrives."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable
from typing import Any, Final

from qwen_operator import __version__
from qwen_operator.controller import Controller
from qwen_operator.handlers import KopfThread
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.lease import RENEW_DEADLINE, Leader
from qwen_operator.kube.resources import QWEN_SERVICES
from qwen_operator.process.endpoints import serve
from qwen_operator.process.health import Health
from qwen_operator.process.logs import set_up_logging
from qwen_operator.process.operator_metrics import LEADER
from qwen_operator.process.settings import Settings, SettingsError, read_settings

logger = logging.getLogger("qwen_operator")

EXIT_LOST: Final = 1
EXIT_BAD_SETTINGS: Final = 2
_RETRY_SECONDS: Final = 2.0


async def run(settings: Settings) -> int:
    """Runs one operator process and returns its exit code."""
    health = Health()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner, port = await serve(health, settings.metrics_port)
    logger.info("qwen-operator %s", __version__, extra={"port": port, "pod": settings.pod_name})
    kube = await KubeClient.connect()
    try:
        if not settings.leader_election:
            return await _act(kube, settings, health, stop)
        return await _lead(kube, settings, health, stop)
    finally:
        health.ready = False
        await kube.close()
        await runner.cleanup()
        logger.info("stopped")


async def _lead(kube: KubeClient, settings: Settings, health: Health, stop: asyncio.Event) -> int:
    leader = Leader(kube, name=settings.lease_name, namespace=settings.namespace, identity=settings.pod_name)
    standby = asyncio.create_task(_report_standby(leader, health))
    try:
        won = await _unless(stop, leader.acquire())
    finally:
        standby.cancel()
    if not won:
        return 0
    LEADER.set(1)
    lost = asyncio.Event()

    async def hold() -> None:
        await leader.hold()
        lost.set()

    holding = asyncio.create_task(hold(), name="lease")
    try:
        acting = asyncio.create_task(_act(kube, settings, health, stop), name="controller")
        losing = asyncio.create_task(lost.wait())
        await asyncio.wait((acting, losing), return_when=asyncio.FIRST_COMPLETED)
        losing.cancel()
        if acting.done():
            return acting.result()
        # Another process may soon act, so stop at once.
        acting.cancel()
        await asyncio.wait((acting,), timeout=RENEW_DEADLINE / 4)
        return EXIT_LOST
    finally:
        holding.cancel()
        LEADER.set(0)
        await leader.release()


async def _report_standby(leader: Leader, health: Health) -> None:
    """Keeps a process on standby ready as long as it can read the Lease."""
    loop = asyncio.get_running_loop()
    while True:
        health.ready = leader.seen_at >= 0 and loop.time() - leader.seen_at < 3 * RENEW_DEADLINE
        await asyncio.sleep(1.0)


async def _act(kube: KubeClient, settings: Settings, health: Health, stop: asyncio.Event) -> int:
    """Watches and acts until `stop` is set. If a part fails, the process exits."""
    if not await _unless(stop, _definition_served(kube)):
        return 0
    controller = Controller(kube, settings, health)
    working = asyncio.create_task(controller.run(), name="controller")
    died = asyncio.Event()
    watcher = KopfThread(controller.service_seen, controller.service_gone, died.set, settings.watch_namespaces)
    waits = [asyncio.create_task(event.wait()) for event in (stop, died, controller.ready)]
    try:
        await asyncio.wait((working, *waits), return_when=asyncio.FIRST_COMPLETED)
        if controller.ready.is_set():
            # Pods before services, so that the first reconciliation sees all pods.
            watcher.start()
            health.ready = await _unless(stop, watcher.started())
            await asyncio.wait((working, *waits[:2]), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        # Whatever acts stops first: another process may already hold the Lease.
        working.cancel()
        results = await asyncio.gather(working, return_exceptions=True)
        await watcher.stop()
    if stop.is_set():
        return 0
    for failure in results:
        if isinstance(failure, Exception):
            logger.error("the controller failed", exc_info=failure)
    return EXIT_LOST


async def _definition_served(kube: KubeClient) -> None:
    """Waits until the API server serves QwenServices: after an installation this takes a moment."""

    while True:
        try:
            if await kube.serves(QWEN_SERVICES):
                return
            logger.info("waiting for the CustomResourceDefinition of QwenServices")
        except KubeError as error:
            logger.warning("the API server cannot be reached: %s", error)

        await asyncio.sleep(_RETRY_SECONDS)


async def _unless(stop: asyncio.Event, work: Awaitable[Any]) -> bool:
    """Waits for work. Returns False if `stop` is set before it is done."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    task.result()
    return True


def main() -> None:
    """The command `qwen-operator`."""
    try:
        settings = read_settings(sys.argv[1:])
    except SettingsError as error:
        print(f"qwen-operator: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_SETTINGS)
    set_up_logging(settings.log_level, settings.log_format)
    sys.exit(asyncio.run(run(settings)))


if __name__ == "__main__":
    main()
