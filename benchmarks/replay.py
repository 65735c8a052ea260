"""An executor for vLLM's engine core that computes nothing: every step returns fixed tokens.

All servers take it as `--distributed-executor-backend benchmarks.replay.ReplayExecutor`. The
engine core, its scheduler and its sockets stay vLLM's own. Only the model's arithmetic is gone, so
that the frontend is the bottleneck. The model runs until the benchmark sets a pace, so that the
warm-up of a server works, whatever it requests. `pace` sets how long a step takes and notes each.
All requests get the same token in a step: a client that reads a token knows its step.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future

from transformers import AutoTokenizer
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.outputs import ModelRunnerOutput

from benchmarks.pace import Pacemaker, Step


class ReplayExecutor(UniProcExecutor):
    """Loads the model for the size of its cache and the warm-up, and then never runs it again."""

    def _init_executor(self) -> None:
        super()._init_executor()
        # Python's default of 5 ms lets the thread that sends the outputs wait for the scheduler's,
        # and the tokens are late before any frontend has them.
        sys.setswitchinterval(0.0005)
        self._prompts: dict[str, int] = {}
        words = single_characters(self.model_config.tokenizer)
        self._words = list(words.values())
        self._steps = 0
        self._replaying = False
        self._due = 0.0
        self._pace = Pacemaker(list(words))

    def execute_model(
        self, scheduler_output: SchedulerOutput, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput]:
        """One token for every request whose prompt is computed."""
        self._replaying = self._replaying or self._pace.is_set()
        if not self._replaying:
            return super().execute_model(scheduler_output, non_block)
        token = self._words[self._steps % len(self._words)]
        self._keep_pace(len(scheduler_output.num_scheduled_tokens))
        for request_id in scheduler_output.finished_req_ids:
            self._prompts.pop(request_id, None)
        computed: dict[str, int] = {}
        for new in scheduler_output.scheduled_new_reqs:
            self._prompts[new.req_id] = len(new.prompt_token_ids)
            computed[new.req_id] = new.num_computed_tokens
        cached = scheduler_output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        scheduled = scheduler_output.num_scheduled_tokens
        ids = list(scheduled)
        tokens = [[token] if computed[name] + scheduled[name] >= self._prompts[name] else [] for name in ids]
        output = ModelRunnerOutput(
            req_ids=ids, req_id_to_index={name: at for at, name in enumerate(ids)}, sampled_token_ids=tokens
        )
        if not non_block:
            return output
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(output)
        return future

    def _keep_pace(self, streams: int) -> None:
        now = time.monotonic()
        seconds, full = self._pace.seconds(streams, now)
        self._due = max(self._due + seconds, now)
        time.sleep(self._due - now)
        self._pace.note(Step(time.monotonic(), full))
        self._steps += 1


def single_characters(tokenizer: str) -> dict[str, int]:
    """Tokens that are one letter, by it: no server escapes it, holds it back or adds to it."""
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    special = set(loaded.all_special_ids)
    found: dict[str, int] = {}
    for at in range(len(loaded)):
        text = loaded.decode([at])
        if at not in special and len(text) == 1 and text.isalpha():
            found.setdefault(text, at)
    return found
