"""Polls pods over HTTP. Whatever a pod answers, this neither fails nor takes long."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from qwen_operator.api.names import PORT
from qwen_operator.process.operator_metrics import POLLS
from qwen_operator.remediation.policy import POLL_SECONDS
from qwen_operator.remediation.values import Evidence

GENERATE_TIMEOUT: Final = 15.0
MAX_BODY: Final = 256 * 1024
_MAX_ALERTS: Final = 64
_MAX_GPUS: Final = 64


def pod_url(ip: str) -> str:
    """The base URL of the server in a pod."""
    return f"http://[{ip}]:{PORT}" if ":" in ip else f"http://{ip}:{PORT}"


def parse_metrics(body: bytes) -> Evidence | None:
    """The evidence in a response of `/api/v1/metrics`; None if it is not valid."""
    try:
        answer = json.loads(body)
        uptime = _number(answer["uptime"]["seconds"])
        alerts = answer["alerts"]
        requests = answer["requests"]
        busy = math.ceil(_number(requests["running"]) + _number(requests["waiting"]))
        if not isinstance(alerts, list):
            return None
        names = {alert["name"] for alert in alerts[:_MAX_ALERTS] if isinstance(alert, dict) and _is_name(alert)}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return Evidence(uptime=uptime, alerts=frozenset(names), busy=busy, gpus=_uuids(answer.get("gpu")), raw=answer)


def _uuids(gpu: Any) -> tuple[str, ...]:
    """The UUIDs of the GPUs; empty if the server does not report them."""
    uuids = gpu.get("uuids") if isinstance(gpu, dict) else None
    if not isinstance(uuids, list):
        return ()
    return tuple(uuid for uuid in uuids[:_MAX_GPUS] if isinstance(uuid, str) and 0 < len(uuid) <= 64)


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


class Poller:
    """The HTTP client for pods. `url_of` returns the base URL for a pod's address."""

    def __init__(self, url_of: Callable[[str], str] = pod_url) -> None:
        self._url_of = url_of
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def metrics(self, ip: str) -> Evidence | None:
        """A pod's evidence, None if it gives none within a second."""
        body = await self._get(ip, "/api/v1/metrics", POLL_SECONDS)
        evidence = None if body is None else parse_metrics(body)
        POLLS.labels("no answer" if body is None else "invalid" if evidence is None else "ok").inc()
        return evidence

    async def progress(self, ip: str) -> bytes | None:
        """How far the download of a Job's pod is; None if it does not answer within a second."""
        return await self._get(ip, "/progress", POLL_SECONDS)

    async def generate(self, ip: str) -> bool:
        """Whether a test generation of one token succeeds."""

        return await self._get(ip, "/health/generate", GENERATE_TIMEOUT) is not None

    async def _get(self, ip: str, path: str, timeout: float) -> bytes | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256), trust_env=False)
        try:
            async with self._session.get(
                self._url_of(ip) + path, timeout=aiohttp.ClientTimeout(total=timeout), allow_redirects=False
            ) as response:
                if response.status != 200:
                    return None
                body = bytearray()
                async for chunk in response.content.iter_chunked(64 * 1024):
                    body += chunk
                    if len(body) > MAX_BODY:
                        response.close()
                        return None
                return bytes(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
