"""The limits of the admission where a setting is `auto`. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AutoLimits:
    """The inputs of the limits in `auto` mode.

    `prompt_tokens_p95` and `max_tokens` are tokens per request, `queue_timeout` is in seconds.
    """

    max_num_seqs: int
    kv_cache_tokens: int
    prompt_tokens_p95: int
    max_tokens: int
    completions_per_second: float
    queue_timeout: float

    def running(self) -> int:
        """How many requests with a long prompt and a full answer fit scheduler and KV cache."""
        if self.kv_cache_tokens <= 0:
            return max(1, self.max_num_seqs)
        fitting = self.kv_cache_tokens // max(1, self.prompt_tokens_p95 + self.max_tokens)
        return max(1, min(self.max_num_seqs, fitting))

    def waiting(self, running: int) -> int:
        """How many requests can be served within `queue_timeout`, between 10 and 4 * `running`."""
        served = int(self.completions_per_second * self.queue_timeout)
        return max(10, min(served, 4 * running))
