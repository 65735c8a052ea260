"""An executor for vLLM's engine core that computes nothing: every step returns fixed tokens.

Both servers take it as `--distributed-executor-backend benchmarks.replay.ReplayExecutor`. The
engine core, its scheduler and its sockets stay vLLM's own. Only the model's arithmetic is gone, so
that the frontend is the bottleneck. The model runs until the first request with `ignore_eos`, so
that the warm-up of a server works, whatever it requests. `pace` sets how long a step takes.
"""

from __future__ import annotations

import time
from concurrent.futures import Future

from transformers import AutoTokenizer
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.outputs import ModelRunnerOutput

from benchmarks.pace import Pace

_WORDS = 1000  # different tokens, repeated


class ReplayExecutor(UniProcExecutor):
    """Loads the model for the size of its cache and the warm-up, and then never runs it again."""

    def _init_executor(self) -> None:
        super()._init_executor()
        self._prompts: dict[str, int] = {}
        self._words = _whole_words(self.model_config.tokenizer)
        self._next = 0
        self._replaying = False
        self._due = 0.0
        self._pace = Pace()

    def execute_model(
        self, scheduler_output: SchedulerOutput, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput]:
        """One token for every request whose prompt is computed."""
        if not self._replays(scheduler_output):
            return super().execute_model(scheduler_output, non_block)
        self._keep_pace()
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
        tokens = [self._token(computed[name] + scheduled[name] >= self._prompts[name]) for name in ids]
        output = ModelRunnerOutput(
            req_ids=ids, req_id_to_index={name: at for at, name in enumerate(ids)}, sampled_token_ids=tokens
        )
        if not non_block:
            return output
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(output)
        return future

    def _replays(self, scheduler_output: SchedulerOutput) -> bool:
        new = scheduler_output.scheduled_new_reqs
        self._replaying = self._replaying or any(r.sampling_params and r.sampling_params.ignore_eos for r in new)
        return self._replaying

    def _token(self, ready: bool) -> list[int]:
        if not ready:
            return []
        self._next = (self._next + 1) % len(self._words)
        return [self._words[self._next]]

    def _keep_pace(self) -> None:
        now = time.monotonic()
        self._due = max(self._due + self._pace.seconds(), now)
        time.sleep(self._due - now)


def _whole_words(tokenizer: str) -> list[int]:
    """Tokens that are whole characters: vLLM holds back a partial one."""
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    special = set(loaded.all_special_ids)
    whole = [
        at for at in range(len(loaded)) if at not in special and (text := loaded.decode([at])) and "\ufffd" not in text
    ]
    return whole[:: max(1, len(whole) // _WORDS)]
