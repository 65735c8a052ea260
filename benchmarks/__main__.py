"""`python -m benchmarks`: compares this server with vLLM's own; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import os
import shlex
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, report, results
from benchmarks.console import say
from benchmarks.context import Context
from benchmarks.parts import PARTS
from benchmarks.servers import ROOT, Engine, ServerError
from qwen_server.config.settings import Settings
from qwen_server.engine.vllm.data_type import computes_bfloat16_slowly

PAGE = ROOT / "benchmarks" / "README.md"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = ",".join(PARTS)
    built = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    built.add_argument("--only", metavar="PART,...", default=names, help=f"parts to run, of {names}")
    built.add_argument("--runs", type=int, default=5, help="runs of each part, interleaved (default 5)")
    built.add_argument("--quick", action="store_true", help="a quarter of the load, to check that it works")
    built.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all engines run (default cpu)")
    built.add_argument("--model", default="builtin:news-classifier", help="folder of a model, or builtin:NAME")
    built.add_argument("--max-model-len", type=int, help="the context length (default: the model's own)")
    built.add_argument(
        "--dtype",
        default="auto",
        help="data type of all engines (default auto: the model's, but float32 on a CPU without AVX-512)",
    )
    built.add_argument(
        "--gpu-memory-utilization",
        type=float,
        default=0.3,
        help="share of the GPU's memory for each engine (default 0.3)",
    )
    built.add_argument("--compiled", action="store_true", help="let vLLM compile; the default on a GPU")
    built.add_argument("--folder", type=Path, default=ROOT / ".bench", help="for results and logs (default .bench)")
    built.add_argument("--no-page", action="store_true", help="do not write the tables to benchmarks/README.md")
    built.add_argument("engine", nargs="*", metavar="-- FLAG", help="more flags of vLLM, for all engines")
    return built


def main(line: list[str]) -> int:
    """Runs the chosen parts. Returns 1 if a part failed; a missed target is only shown."""
    command = parser()
    options = command.parse_args(line)
    if options.dtype == "auto" and options.device == "cpu" and computes_bfloat16_slowly():
        options.dtype = "float32"
    chosen = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in PARTS]:
        command.error(f"--only: unknown part {', '.join(unknown)}")
    if options.runs < 1:
        command.error("--runs: at least 1")
    model = Settings(model=options.model).model_path
    eager = options.device == "cpu" and not options.compiled
    context = Context(
        Engine(
            model,
            options.device,
            gpu_memory_utilization=options.gpu_memory_utilization,
            max_model_len=options.max_model_len,
            dtype=options.dtype,
            eager=eager,
            extra=tuple(options.engine),
        ),
        options.folder.resolve(),
        options.runs,
        options.quick,
        _command_line(options, chosen),
    )
    context.folder.mkdir(parents=True, exist_ok=True)
    if context.without_rust:
        say(f"without vLLM's Rust frontend: {context.without_rust}")
    compile_bytecode()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    try:
        failed = [name for name in PARTS if name in chosen and not _run(name, context)]
    finally:
        context.release()
    _summarise(context, options.no_page)
    return 1 if failed else 0


def _command_line(options: argparse.Namespace, chosen: list[str]) -> str:
    """The command as the tables show it: without folders, and with only the name of a model."""
    words = ["python", "-m", "benchmarks", f"--runs={options.runs}", f"--device={options.device}"]
    words += [f"--only={','.join(chosen)}"] if set(chosen) != set(PARTS) else []
    words += [f"--model={options.model.rstrip('/').rsplit('/', 1)[-1]}"]
    words += [f"--dtype={options.dtype}"] if options.dtype != "auto" else []
    words += [f"--{flag}" for flag in ("quick", "compiled") if getattr(options, flag)]
    return shlex.join([*words, *(["--", *options.engine] if options.engine else [])])


def compile_bytecode() -> None:
    """Compiles what the servers import, so that the first start does not pay for all others."""
    for name in ("vllm", "torch", "transformers"):
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            compileall.compile_dir(folder, quiet=2, workers=0)
    compileall.compile_dir(ROOT / "server" / "src", quiet=2)


def _run(name: str, context: Context) -> bool:
    started = time.monotonic()
    conditions: dict[str, Any] = {
        "command": context.command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.describe(),
        "load": os.getloadavg()[0],
        "runs": context.runs,
        "quick": context.quick,
        "device": context.engine.device,
    }
    say(f"{name} ...")
    try:
        rows, notes = PARTS[name](context)
        notes += [f"vLLM's Rust frontend was not measured: {context.without_rust}."] if context.without_rust else []
    except (ServerError, RuntimeError, OSError) as error:
        say(f"{name} failed: {error}")
        context.release()
        return False
    seconds = time.monotonic() - started
    results.Part(name, seconds, rows, notes, conditions).save(_results(context))
    say(f"{name}: done in {seconds:.0f} s")
    return True


def _results(context: Context) -> Path:
    """The folder of the results, one for each device."""
    return context.folder / f"results-{context.engine.device}"


def _summarise(context: Context, no_page: bool) -> None:
    parts = [part for name in PARTS if (part := results.load(_results(context), name))]
    print(report.render(parts))
    if not no_page:
        report.write(PAGE, parts, context.engine.device)
        say("wrote benchmarks/README.md")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
