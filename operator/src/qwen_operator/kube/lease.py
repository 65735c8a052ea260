"""Leader election by a Lease: one of several operators acts, the others stand by.

As in client-go, a Lease has expired when this process has seen it unchanged for its duration on its
own monotonic clock, so that differing clocks do not matter. Unlike in the election of the Python
client, a leader that stops releases the Lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ConflictError, KubeError, NotFoundError
from qwen_operator.kube.resources import LEASES

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 10
RENEW_DEADLINE: Final = 6.0
"""Seconds without a renewal after which the Lease counts as lost. Others can take it only later."""

RETRY_SECONDS: Final = 2.0
STANDBY_SECONDS: Final = 1.0
"""How often a process on standby reads the Lease, so that it notices a release within a second."""


class LeaseWatch:
    """For how long this process has seen the record of the holder unchanged."""

    def __init__(self) -> None:
        self._record: tuple[object, ...] | None = None
        self._since = 0.0

    def may_take(self, lease: dict[str, Any], identity: str, now: float) -> bool:
        """Whether `identity` may write itself into the Lease at the monotonic time `now`."""
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        record = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._record:
            self._record, self._since = record, now
        duration = float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
        return holder in ("", identity) or now - self._since > duration


def claim(lease: dict[str, Any] | None, name: str, namespace: str, identity: str, moment: datetime) -> dict[str, Any]:
    """The Lease with `identity` as its holder, renewed at `moment`."""
    old = (lease or {}).get("spec") or {}
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    same = old.get("holderIdentity") == identity
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": LEASE_SECONDS,
        "acquireTime": old.get("acquireTime", stamp) if same else stamp,
        "renewTime": stamp,
        "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if same or lease is None else 1),
    }
    metadata = lease["metadata"] if lease else {"name": name, "namespace": namespace}
    return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}


def _holder(lease: dict[str, Any]) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


class Leader:
    """One candidate."""

    def __init__(
        self, kube: KubeClient, *, name: str, namespace: str, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kube = kube
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._watch = LeaseWatch()
        self._lease: dict[str, Any] | None = None
        self.seen_at = -1.0
        """When the Lease was last read, on the monotonic clock; negative if never."""

    async def acquire(self) -> None:
        """Returns once this process is the leader. Retries forever."""
        logger.info("waiting for the lease", extra={"lease": self._name, "identity": self._identity})
        while True:
            if await self._attempt(RENEW_DEADLINE):
                break
            await asyncio.sleep(STANDBY_SECONDS)
        logger.info("leading", extra={"lease": self._name, "identity": self._identity})

    async def hold(self) -> None:
        """Renews the Lease. Returns when it is lost."""
        renewed = self._clock()
        while (left := renewed + RENEW_DEADLINE - self._clock()) > 0:
            await asyncio.sleep(min(RETRY_SECONDS, left))
            started = self._clock()
            # An attempt must end by the deadline: after it another process may become leader.
            held = await self._attempt(min(RENEW_DEADLINE / 2, renewed + RENEW_DEADLINE - started))
            if held:
                renewed = started
            elif self._lease and _holder(self._lease) != self._identity:
                break
        logger.error("lost the lease", extra={"lease": self._name, "identity": self._identity})

    async def release(self) -> None:
        """Releases the Lease, so that another process can take it at once.

        Does nothing if it is not ours.
        """
        if self._lease is None or _holder(self._lease) != self._identity:
            return
        try:
            async with asyncio.timeout(5.0):
                while not await self._give_back():
                    pass
        except (KubeError, TimeoutError) as error:
            logger.warning("releasing the lease failed: %s", error)
        self._lease = None

    async def _give_back(self) -> bool:
        """Whether the Lease is no longer ours. A renewal under way may still change it."""
        # The answer to the last renewal may have been lost, so read the record first.
        lease = await self._kube.get(LEASES, self._name, self._namespace)
        if _holder(lease) != self._identity:
            return True
        spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._kube.replace({**lease, "spec": spec})
        except ConflictError:
            return False
        logger.info("released the lease", extra={"lease": self._name})
        return True

    async def _attempt(self, seconds: float) -> bool:
        """Tries to take or renew the Lease, for so many seconds.

        Whatever goes wrong is a failed try, so that a leader gives up at its deadline: not at the
        first surprise, and never later.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._try()
        except TimeoutError:
            logger.warning("the API server did not answer in time", extra={"lease": self._name})
        except Exception:
            logger.exception("taking the lease failed")
        return False

    async def _try(self) -> bool:
        moment = datetime.now(UTC)
        try:
            lease = await self._kube.get(LEASES, self._name, self._namespace)
        except NotFoundError:
            return await self._write(claim(None, self._name, self._namespace, self._identity, moment), new=True)
        except KubeError as error:
            logger.warning("reading the lease failed: %s", error)
            return False
        self.seen_at = self._clock()
        self._lease = lease
        if not self._watch.may_take(lease, self._identity, self.seen_at):
            return False
        return await self._write(claim(lease, self._name, self._namespace, self._identity, moment), new=False)

    async def _write(self, lease: dict[str, Any], *, new: bool) -> bool:
        try:
            self._lease = await (self._kube.create(lease) if new else self._kube.replace(lease))
        except ConflictError:
            return False
        except KubeError as error:
            logger.warning("writing the lease failed: %s", error)

            return False
        self.seen_at = self._clock()
        return True
