"""`vllm bench serve` as one long-lived process: its imports take ten seconds.

The child reads the command line of a run as a line of JSON and answers with vLLM's own result as
another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.servers import NAME, ROOT, environment


class VllmBench:
    """Runs `vllm bench serve` repeatedly; its own messages go to a log."""

    def __init__(self, model: str, folder: Path) -> None:
        self._model = model
        self.log_path = folder / "vllm-bench.log"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.vllm_client"],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def serve(self, port: int, *, concurrency: int, requests: int, tokens_in: int, tokens_out: int) -> dict[str, Any]:
        """One streamed run of random prompts; vLLM's result, times in ms.

        `completed` is how many requests were answered. Raises RuntimeError if the program ended.
        """
        line = ["--backend=openai-chat", "--endpoint=/v1/chat/completions", f"--port={port}", "--host=127.0.0.1"]
        line += [f"--model={self._model}", f"--served-model-name={NAME}", f"--tokenizer={self._model}"]
        line += ["--dataset-name=random", f"--random-input-len={tokens_in}", f"--random-output-len={tokens_out}"]
        line += [f"--num-prompts={requests}", f"--max-concurrency={concurrency}", "--ignore-eos", "--temperature=0"]
        line += ["--percentile-metrics=ttft,tpot,itl", "--metric-percentiles=50,99", "--disable-tqdm", "--seed=0"]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"vllm bench serve ended: see {self.log_path}")
        result: dict[str, Any] = json.loads(answer)
        return result


def main() -> None:
    """The child."""
    from vllm.benchmarks import serve  # noqa: PLC0415 - ten seconds, and only the child needs it

    answers = sys.stdout
    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            result = serve.main(parser.parse_args(json.loads(line)))
            kept = {name: value for name, value in result.items() if isinstance(value, int | float)}
            answers.write(json.dumps(kept) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
