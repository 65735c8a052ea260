"""Why the server refuses a request now, as plain values; `http.error_bodies` turns them into answers."""

from __future__ import annotations

from dataclasses import dataclass

BUSY_TEXT = "服务繁忙，请稍后重试"
STARTING_TEXT = "服务正在启动，请稍后重试"
DRAINING_TEXT = "服务正在停止，请稍后重试"
UNRESPONSIVE_TEXT = "推理引擎无响应，请稍后重试"
TIMEOUT_TEXT = "请求超时，请稍后重试"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that the server does not serve. `kind` names the reason in the counters.

    `waiting` and `queue_limit` describe the queue at that moment. `retry_after` is in seconds; None means that the
    engine is dead, so that a retry on this replica is pointless.
    """

    kind: str
    text: str
    waiting: int
    queue_limit: int
    retry_after: int | None
