"""Counts the requests of one client in the audit log of the API server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHECK_SECONDS = 0.5


class Request(NamedTuple):
    """One request; `resource` is empty for discovery."""

    verb: str
    resource: str

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Request | None:
        """The request of an entry; None if another entry of the same request counts.

        A watch counts when it begins, everything else when it has ended.
        """
        begins = entry["stage"] == "ResponseStarted"
        if begins != (entry["verb"] == "watch"):
            return None
        return cls(entry["verb"], (entry.get("objectRef") or {}).get("resource", ""))

    @property
    def counts(self) -> bool:
        """Whether it is work: not an Event, not the Lease, and no watch, which waits for work."""
        return self.verb != "watch" and self.resource not in ("events", "leases")


class Tally(NamedTuple):
    """Numbers of requests. Those about Events and Leases are in no other number."""

    reads: int = 0
    writes: int = 0
    watches: int = 0
    discovery: int = 0
    events: int = 0
    leases: int = 0

    @property
    def total(self) -> int:
        """All but those about Events and Leases."""
        return self.reads + self.writes + self.watches + self.discovery

    @classmethod
    def of(cls, requests: Iterable[Request]) -> Tally:
        """Counts requests."""
        numbers = dict.fromkeys(cls._fields, 0)
        for request in requests:
            numbers[_kind(request)] += 1
        return cls(**numbers)


def _kind(request: Request) -> str:
    if request.resource in ("events", "leases"):
        return request.resource
    if not request.resource:
        return "discovery"
    if request.verb == "watch":
        return "watches"
    return "reads" if request.verb in ("get", "list") else "writes"


def policy(users: Sequence[str]) -> str:
    """The audit policy that records the requests of some users and of nobody else."""
    return yaml.safe_dump(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": list(users)}, {"level": "None"}],
        }
    )


class AuditLog:
    """The requests of the recorded users, read from the log as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._requests: list[Request] = []

    def mark(self) -> int:
        """The number of requests so far, for `since`."""
        self._read()
        return len(self._requests)

    def since(self, mark: int = 0) -> Tally:
        """Counts the requests after a mark."""
        self._read()
        return Tally.of(self._requests[mark:])

    def rest(self, seconds: float, at_most: float, *, events: bool = False) -> bool:
        """Waits until nothing but watches, Events and the Lease was asked for so many seconds.

        With `events`, also until no Event was written or read for as long. Returns False if it does
        not come to rest in the time.
        """
        deadline = time.monotonic() + at_most
        seen, since = -1, time.monotonic()
        while time.monotonic() < deadline:
            self._read()
            work = sum(request.counts or (events and request.resource == "events") for request in self._requests)
            if work != seen:
                seen, since = work, time.monotonic()
            elif time.monotonic() - since >= seconds:
                return True
            time.sleep(CHECK_SECONDS)
        return False

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        entries = (Request.of(json.loads(line)) for line in whole.splitlines())
        self._requests += [request for request in entries if request is not None]
