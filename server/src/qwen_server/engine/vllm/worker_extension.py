"""Code that runs inside the engine's GPU workers."""

from __future__ import annotations

import torch


class MemoryReport:
    """Mixed into vLLM's worker by `worker_extension_cls`."""

    def reserved_bytes(self) -> int:
        """The bytes that torch's allocator holds on the worker's device."""
        return int(torch.cuda.memory_reserved())
