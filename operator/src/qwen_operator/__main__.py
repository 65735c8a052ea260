"""`python -m qwen_operator`: become leader, then act until the Lease is lost or SIGTERM arrives."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

from qwen_operator import __version__
from qwen_operator.acting import EXIT_LOST, Acting
from qwen_operator.controller import Controller
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.election import END_SECONDS, Election
from qwen_operator.kube.lease import RENEW_DEADLINE
from qwen_operator.process.endpoints import serve
from qwen_operator.process.files import raise_file_limit
from qwen_operator.process.health import Health
from qwen_operator.process.logs import set_up_logging
from qwen_operator.process.memory import spare_collections
from qwen_operator.process.operator_metrics import LEADER
from qwen_operator.process.settings import Settings, SettingsError, read_settings

logger = logging.getLogger("qwen_operator")

Close = Callable[[], Awaitable[None]]
EXIT_BAD_SETTINGS: Final = 2
_LOSS_SECONDS: Final = END_SECONDS / 2
"""Seconds for an orderly end after the Lease was lost. Others may take it a little later."""


async def run(settings: Settings) -> int:
    """Runs one operator process and returns its exit code."""
    health = Health()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner, port = await serve(health, settings.metrics_port)
    logger.info("qwen-operator %s", __version__, extra={"port": port, "pod": settings.pod_name})
    try:
        if settings.leader_election:
            return await _lead(settings, health, stop, runner.cleanup)
        return await _alone(settings, health, stop, runner.cleanup)
    finally:
        health.ready = False
        await runner.cleanup()
        logger.info("stopped")


async def _alone(settings: Settings, health: Health, stop: asyncio.Event, close: Close) -> int:
    kube = await KubeClient.connect()

    async def stopped() -> None:
        await kube.close()
        await close()

    return await Acting(Controller(kube, settings, health), stop, stopped).run()


async def _lead(settings: Settings, health: Health, stop: asyncio.Event, close: Close) -> int:
    election = await Election.join(
        name=settings.lease_name,
        namespace=settings.namespace,
        identity=settings.pod_name,
        end=lambda: os._exit(EXIT_LOST),
    )
    try:
        standby = asyncio.create_task(_report_standby(election, health))
        try:
            won = await _unless(stop, election.acquire())
        finally:
            standby.cancel()
            health.ready = False  # the leader is ready when it sees what it acts on
        if not won:
            return 0
        LEADER.set(1)
        return await _while_held(election, settings, health, stop, close)
    finally:
        LEADER.set(0)
        await election.release()
        await election.leave()


async def _while_held(election: Election, settings: Settings, health: Health, stop: asyncio.Event, close: Close) -> int:
    kube = await KubeClient.connect()
    holding = asyncio.create_task(election.hold(), name="lease")

    async def stopped() -> None:
        holding.cancel()
        await asyncio.wait((holding,))
        await election.release()
        await kube.close()
        # kopf waits some seconds for what still runs, such as connections to the endpoints.
        await close()

    acting = Acting(Controller(kube, settings, health), stop, stopped)
    running = asyncio.create_task(acting.run(), name="frame")
    # Whatever ends `holding`, also an exception, ends the process: it must not act any longer.
    await asyncio.wait((running, holding), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        return running.result()
    acting.end()
    if not holding.cancelled():
        if error := holding.exception():
            logger.error("holding the lease failed", exc_info=error)
        await asyncio.wait((running,), timeout=_LOSS_SECONDS)
        return EXIT_LOST
    return await running


async def _report_standby(election: Election, health: Health) -> None:
    """Keeps a process on standby ready as long as it can read the Lease."""
    loop = asyncio.get_running_loop()
    while True:
        health.ready = election.seen_at >= 0 and loop.time() - election.seen_at < 3 * RENEW_DEADLINE
        await asyncio.sleep(1.0)


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
    raise_file_limit()
    spare_collections()
    sys.exit(uvloop.run(run(settings)))


if __name__ == "__main__":
    main()
