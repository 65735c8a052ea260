"""What the parts share: the options, and the servers that several parts use in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks import rust_frontend
from benchmarks.load import Job
from benchmarks.servers import NAME, Engine, Server, Which, running, side_by_side

# Limits for a throughput benchmark: this server refuses or shortens nothing that vLLM's server
# accepts. Where the limits are `auto`, the queue's deadline bounds the time to the first token
# under overload.
TOKENS_LIMIT = 4096
AUTO = (
    "--max-concurrent-requests=auto",
    "--max-queue-size=auto",
    f"--max-tokens-limit={TOKENS_LIMIT}",
    "--queue-timeout=500ms",
)
# How many run at a time follows from full answers and the KV cache, which is small on a GPU that
# several engines share.
_GPU_AUTO = (*AUTO, "--max-tokens-limit=512")
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
    without_rust: str = ""  # why the Rust frontend is not measured; empty if it is
    _stack: ExitStack = field(default_factory=ExitStack)
    _shared: dict[Which, Server] | None = None

    def __post_init__(self) -> None:
        """Finds or fetches the Rust frontend, before anything is measured."""
        try:
            rust_frontend.program()
        except rust_frontend.Unavailable as error:
            self.without_rust = str(error)
        if not self.fits(3):
            self.without_rust = "the GPU has no memory for a third engine"

    @property
    def peers(self) -> tuple[Which, ...]:
        """The servers to compare with each other."""
        return ("ours", "vllm") if self.without_rust else ("ours", "vllm", "rust")

    @property
    def auto(self) -> tuple[str, ...]:
        """The flags of this server with `auto` limits."""
        return AUTO if self.engine.device == "cpu" else _GPU_AUTO

    def fits(self, engines: int) -> bool:
        """Whether so many engines can be up at once."""
        return self.engine.device == "cpu" or engines * self.engine.gpu_memory_utilization <= _GPU_SHARE

    def servers(self) -> dict[Which, Server]:
        """The peers, ours with `auto` limits; the first call starts them."""
        if self._shared is None:
            self._shared = self._stack.enter_context(self.fresh(self.auto))
        return self._shared

    def fresh(
        self,
        ours: tuple[str, ...],
        *,
        engine: Engine | None = None,
        theirs: Mapping[Which, tuple[str, ...]] = MappingProxyType({}),
        variables: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[dict[Which, Server]]:
        """The peers as new processes: ours with these flags, the others with `theirs`."""
        flags = {which: ours if which == "ours" else theirs.get(which, ()) for which in self.peers}
        return side_by_side(engine or self.engine, self.folder, flags, variables=variables)

    @contextlib.contextmanager
    def unpatched(
        self, engine: Engine | None = None, variables: Mapping[str, str] | None = None
    ) -> Iterator[dict[Which, Server]]:
        """This server without patches, with `auto` limits; none if a GPU lacks the memory."""
        if not self.fits(len(self.peers) + 1):
            yield {}
            return
        with running("unpatched", engine or self.engine, self.folder, self.auto, variables=variables) as server:
            yield {"unpatched": server}

    def release(self) -> None:
        """Stops the shared servers."""
        self._shared = None
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
