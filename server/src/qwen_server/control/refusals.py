"""Why the server refuses requests, as plain values.

`http.error_bodies` turns them into responses.
"""

from __future__ import annotations

from dataclasses import dataclass

BUSY_TEXT = "服务繁忙，请稍后重试"
STARTING_TEXT = "服务正在启动，请稍后重试"
DRAINING_TEXT = "服务正在停止，请稍后重试"
SLEEPING_TEXT = "服务处于休眠状态，请稍后重试"
UNRESPONSIVE_TEXT = "推理引擎无响应，请稍后重试"
RESTARTING_TEXT = "推理引擎正在重启，请稍后重试"
TIMEOUT_TEXT = "请求超时，请稍后重试"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The refusal of a request. `kind` names the reason in the counters.

    `waiting` and `queue_limit` describe the queue at that moment. `retry_after` is in seconds. None
    means that the engine is dead and a retry on this replica cannot succeed.
    """

    kind: str
    text: str
    waiting: int
    queue_limit: int
    retry_after: int | None
