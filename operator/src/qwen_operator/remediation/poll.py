"""Polls pods over HTTP. Whatever a pod answers, this neither fails nor takes long.

Pods of one namespace that answer slowly, or hold connections open, delay no pod of another.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import aiohttp
from yarl import URL

from qwen_operator.api import parse_time
from qwen_operator.api.names import PORT
from qwen_operator.api.tokens import metrics_token
from qwen_operator.process.operator_metrics import POLLS
from qwen_operator.remediation.policy import POLL_SECONDS
from qwen_operator.remediation.shares import Shares
from qwen_operator.remediation.values import Evidence
from qwen_operator.status.adapters import parse_reports

GENERATE_TIMEOUT: Final = 15.0
SHORTEST_SECONDS: Final = 1.0
"""Seconds between two polls of a pod, at least. A shorter `pollInterval` counts as this."""
POLLS_AT_ONCE: Final = 256
"""Polls of the pods of one namespace at the same time; more wait."""
GENERATIONS_AT_ONCE: Final = 32
"""The same for test generations, each of which may take `GENERATE_TIMEOUT`."""
MAX_BODY: Final = 64 * 1024
"""Bytes that an answer may have. One of the server has a few thousand, and up to 700 for each of at
most 64 adapters."""
_MAX_ALERTS: Final = 64
_MAX_GPUS: Final = 64
_MAX_RESTARTS: Final = 1_000_000
_RESULTS: Final = {result: POLLS.labels(result) for result in ("ok", "invalid", "no answer")}
_UUID: Final = re.compile(r"[A-Za-z0-9._:/-]{1,64}")


@dataclass(frozen=True)
class Answer:
    """What a pod answered to a poll: evidence, or something that is not valid, or nothing."""

    evidence: Evidence | None
    garbled: bool = False


def pod_url(ip: str) -> str:
    """The base URL of the server in a pod."""
    return f"http://[{ip}]:{PORT}" if ":" in ip else f"http://{ip}:{PORT}"


def parse_metrics(body: bytes, asked_at: float | None = None) -> Evidence | None:
    """The evidence in a response of `/api/v1/metrics`; None if it is not valid.

    asked_at: when the pod was asked, on the monotonic clock in seconds.
    """
    try:
        answer = json.loads(body)
        uptime = _number(answer["uptime"]["seconds"])
        alerts = answer["alerts"]
        requests = answer["requests"]
        busy = math.ceil(_number(requests["running"]) + _number(requests["waiting"]))
        if not isinstance(alerts, list):
            return None
        valid = [alert for alert in alerts[:_MAX_ALERTS] if isinstance(alert, dict) and _is_name(alert)]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    restarts, left, restarting = _engine(answer)
    return Evidence(
        uptime=uptime,
        alerts=frozenset(alert["name"] for alert in valid),
        busy=busy,
        gpus=_uuids(answer.get("gpu")),
        active_for=_active_for(valid, answer.get("timestamp"), uptime),
        adapters=parse_reports(answer.get("adapters")),
        engine_restarts=restarts,
        engine_restarts_left=left,
        restarting=restarting,
        body=body,
        asked_at=asked_at,
    )


def _engine(answer: Mapping[str, Any]) -> tuple[int, int, bool]:
    """How often the server has restarted its engine, may now, and whether it does.

    A server of an earlier version does not say it, and restarts none.
    """
    try:
        restarts = answer["engine"]["restarts"]
        total, left = (min(int(_number(restarts[name])), _MAX_RESTARTS) for name in ("total", "left"))
    except (TypeError, KeyError, ValueError, OverflowError):
        return 0, 0, False
    return total, left, answer.get("status") == "restarting"


def _active_for(alerts: Sequence[Mapping[str, Any]], timestamp: Any, uptime: float) -> dict[str, float]:
    """For how long alerts have been active, at most since the server started.

    Both times are of the same clock, so it does not matter whether it is right. An alert whose time
    is not valid is left out.
    """
    now = _time(timestamp)
    ages: dict[str, float] = {}
    for alert in alerts:
        since = _time(alert.get("since"))
        if now is not None and since is not None and since <= now:
            ages[alert["name"]] = min(uptime, (now - since).total_seconds())
    return ages


def _time(text: Any) -> datetime | None:
    """A time that the server wrote: UTC, without an offset."""
    moment = parse_time(text) if isinstance(text, str) else None
    return None if moment is None else moment.replace(tzinfo=None)


def _uuids(gpu: Any) -> tuple[str, ...]:
    """The UUIDs of the GPUs; empty if the server does not report them."""
    uuids = gpu.get("uuids") if isinstance(gpu, dict) else None
    if not isinstance(uuids, list):
        return ()
    return tuple(uuid for uuid in uuids[:_MAX_GPUS] if isinstance(uuid, str) and _UUID.fullmatch(uuid))


def _is_name(alert: Mapping[str, Any]) -> bool:
    name = alert.get("name")
    return isinstance(name, str) and 0 < len(name) <= 64


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{value!r} is negative or not finite")
    return number


@lru_cache(maxsize=8192)
def _url(text: str) -> URL:
    """Parsed once: two thousand pods are polled again and again."""
    return URL(text)


class Poller:
    """The HTTP client for pods.

    `url_of` returns the base URL for a pod's address. `shortest` is the number of seconds between
    two polls of a pod, at least, whatever its service asks for; only tests change it. The first of
    the `keys` opens the metrics of pods that protect them.
    """

    def __init__(
        self,
        url_of: Callable[[str], str] = pod_url,
        *,
        shortest: float = SHORTEST_SECONDS,
        keys: Sequence[str] = (),
    ) -> None:
        self._url_of = url_of
        self.shortest = shortest
        self._key = next(iter(keys), None)
        self._polls = Shares(POLLS_AT_ONCE)
        self._generations = Shares(GENERATIONS_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def metrics(self, ip: str, namespace: str, service: str = "") -> Answer:
        """What a pod answers within a second. `service` is the name of its Kubernetes Service."""
        headers: dict[str, str] = {}
        if self._key is not None and service:
            headers["Authorization"] = f"Bearer {metrics_token(self._key, namespace, service)}"
        async with self._polls.slot(namespace):
            asked_at = time.monotonic()
            body = await self._get(ip, "/api/v1/metrics", POLL_SECONDS, headers)
        evidence = None if body is None else parse_metrics(body, asked_at)
        _RESULTS["no answer" if body is None else "invalid" if evidence is None else "ok"].inc()
        return Answer(evidence, garbled=body is not None and evidence is None)

    async def progress(self, ip: str, namespace: str) -> bytes | None:
        """How far the download of a Job's pod is; None if it does not answer within a second."""
        async with self._polls.slot(namespace):
            return await self._get(ip, "/progress", POLL_SECONDS)

    async def generate(self, ip: str, namespace: str) -> bool:
        """Whether a test generation of one token succeeds."""
        async with self._generations.slot(namespace):
            return await self._get(ip, "/health/generate", GENERATE_TIMEOUT) is not None

    async def _get(self, ip: str, path: str, timeout: float, headers: Mapping[str, str] | None = None) -> bytes | None:
        try:
            async with self._client().get(
                _url(self._url_of(ip) + path),
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
                headers=headers,
            ) as response:
                if response.status != 200 or (response.content_length or 0) > MAX_BODY:
                    return None
                if response.content_length is not None:  # aiohttp reads so many bytes and no more
                    return await response.read()
                body = bytearray()
                async for chunk in response.content.iter_chunked(64 * 1024):
                    body += chunk
                    if len(body) > MAX_BODY:
                        response.close()
                        return None
                return bytes(body)
        except Exception:  # noqa: BLE001 - whatever a pod does, the others are polled
            return None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The shares limit them: waiting for one would count as silence of the pod.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,  # a small answer could become a large one
                trust_env=False,
            )
        return self._session
