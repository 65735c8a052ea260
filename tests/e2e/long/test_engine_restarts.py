"""A worker of tensor parallelism is killed: its clients see a pause. It needs no cluster."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration import builtin_model
from tests.integration.server_process import ready_server
from tests.integration.test_vllm_restarts import LONG, Answer, begun, restarts, stream


@pytest.mark.timeout(900)
def test_a_killed_worker_of_two_is_a_pause(tmp_path: Path) -> None:
    # The heads of the built-in model cannot be halved.
    model = builtin_model.copy(tmp_path / "model", num_attention_heads=2, num_key_value_heads=2)
    flags = (f"--model={model}", "--tensor-parallel-size=2", "--dtype=float32", "--max-tokens-limit=3000")
    body = LONG | {"max_tokens": 1500}
    with ready_server(tmp_path, *flags, "--", "--load-format=dummy") as server, ThreadPoolExecutor(8) as pool:
        undisturbed = stream(server, Answer(), body)
        (future,) = begun(server, pool, body)
        workers = server.workers()
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        answer = future.result()
        assert (answer.text, answer.done, answer.error) == (undisturbed.text, True, None)
        server.until_ready()
        assert (restarts(server), len(server.workers())) == ({"died": 1}, 2)
        assert not set(workers) & set(server.workers())
        print(f"the stream paused for {answer.gap:.1f} s")
