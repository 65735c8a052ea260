"""What the parts share: the options, and a pair of servers that several parts use in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import Job
from benchmarks.servers import NAME, Engine, Server, Which, both, running

# Limits for a throughput benchmark: this server refuses or shortens nothing that vLLM's server
# accepts. Where the limits are `auto`, the queue's deadline bounds the time to the first token
# under overload.
AUTO = ("--max-concurrent-requests=auto", "--max-queue-size=auto", "--max-tokens-limit=4096", "--queue-timeout=500ms")
CHAT = "/v1/chat/completions"
_GPU_SHARE = 0.95  # of its memory, for all engines together
_TEXT = "######## 股市今日大涨，多家上市公司公布业绩，分析人士认为市场信心正在恢复，投资者仍需注意风险"


@dataclass
class Context:
    """One call of the benchmarks."""

    engine: Engine
    folder: Path
    runs: int
    quick: bool
    command: str  # as the tables show it
    _stack: ExitStack = field(default_factory=ExitStack)
    _pair: dict[Which, Server] | None = None

    def pair(self) -> dict[Which, Server]:
        """Both servers with `auto` limits; the first call starts them."""
        if self._pair is None:
            self._pair = self._stack.enter_context(both(self.engine, self.folder, AUTO))
        return self._pair

    @contextlib.contextmanager
    def unpatched(
        self, engine: Engine | None = None, variables: Mapping[str, str] | None = None
    ) -> Iterator[dict[Which, Server]]:
        """This server without patches, with `auto` limits; None if a GPU lacks the memory."""
        if self.engine.device == "cuda" and 3 * self.engine.gpu_memory_utilization > _GPU_SHARE:
            yield {}
            return
        with running("unpatched", engine or self.engine, self.folder, AUTO, variables=variables) as server:
            yield {"unpatched": server}

    def release(self) -> None:
        """Stops the pair."""
        self._pair = None
        self._stack.close()
        self._stack = ExitStack()

    def scaled(self, value: int) -> int:
        """A number of requests or seconds; a quarter of it with --quick."""
        return max(1, value // 4) if self.quick else value


def chat(port: int, *, tokens: int, stream: bool, **load: Any) -> Job:
    """A load of chats: about 40 prompt tokens each, no common prefix, `tokens` tokens an answer."""
    body: dict[str, Any] = {
        "model": NAME,
        "messages": [{"role": "user", "content": _TEXT}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return Job(port, CHAT, body, **load)
