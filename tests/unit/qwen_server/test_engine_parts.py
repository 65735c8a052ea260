"""The parts of the vLLM engine that need no vLLM: pulse, families, outputs, processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_server.engine.base import EngineError, InvalidRequestError
from qwen_server.engine.processes import any_stopped, cpu_seconds, descendants
from qwen_server.engine.vllm.causes import read_errors
from qwen_server.engine.vllm.child_logging import write_logging_config
from qwen_server.engine.vllm.heartbeat import Heartbeat
from qwen_server.engine.vllm.model_family import choose, detect
from qwen_server.engine.vllm.outputs import Merger


def step(heartbeat: Heartbeat, now: float, tokens: int = 1, usage: float = 0.0) -> None:
    heartbeat.on_step(now, tokens=tokens, kv_cache_usage=usage)


def test_a_step_without_tokens_is_life_but_no_progress() -> None:
    heartbeat = Heartbeat()
    step(heartbeat, 1.0)
    step(heartbeat, 5.0, tokens=0)
    assert (heartbeat.last_step_at, heartbeat.last_token_at) == (5.0, 1.0)


def test_a_chunk_of_a_long_prompt_is_progress_though_it_brings_no_token() -> None:
    heartbeat = Heartbeat()
    step(heartbeat, 1.0)
    step(heartbeat, 5.0, tokens=0, usage=0.2)
    assert heartbeat.last_token_at == 5.0


def test_requests_that_come_and_go_do_not_refresh_an_engine_that_owes_an_answer() -> None:
    heartbeat = Heartbeat()
    heartbeat.on_request(1.0, unfinished=0)
    assert heartbeat.busy_since == 1.0
    heartbeat.ping_sent_at = 2.0
    heartbeat.on_request(50.0, unfinished=0)
    assert heartbeat.busy_since == 2.0
    heartbeat.on_request(60.0, unfinished=1)
    assert (heartbeat.busy_since, heartbeat.last_request_at) == (2.0, 60.0)


def test_idling_is_no_cpu_activity() -> None:
    heartbeat = Heartbeat()
    heartbeat.on_cpu_time(1.0, {7: 10.0, 8: 3.0})
    heartbeat.on_cpu_time(2.0, {7: 10.01, 8: 3.0})
    assert heartbeat.cpu_active_at == 1.0
    heartbeat.on_cpu_time(3.0, {7: 10.8, 8: 3.0})
    assert heartbeat.cpu_active_at == 3.0


def test_steps_and_answers_are_life_and_their_want_is_quiet() -> None:
    heartbeat = Heartbeat()
    assert heartbeat.quiet_seconds(5.0, unfinished=0) == 0
    heartbeat.ping_sent_at = 3.0
    assert heartbeat.quiet_seconds(5.0, unfinished=0) == 2
    heartbeat.on_request(4.0, unfinished=1)
    step(heartbeat, 4.5)
    assert heartbeat.quiet_seconds(5.0, unfinished=1) == 0.5
    heartbeat.on_life(5.0)
    heartbeat.on_cpu_time(6.0, {7: 100.0})
    assert heartbeat.cpu_active_at == 5.0, "the first look only sets the mark"
    heartbeat.on_cpu_time(7.0, {7: 100.9})
    assert heartbeat.cpu_active_at == 7.0
    heartbeat.on_life(8.0)
    heartbeat.on_cpu_time(9.0, {7: 200.0})
    assert heartbeat.cpu_active_at == 8.0, "what was computed before the engine got quiet proves nothing"


def test_a_compiler_that_the_engine_runs_is_cpu_activity_though_others_end() -> None:
    heartbeat = Heartbeat()
    heartbeat.on_cpu_time(1.0, {7: 10.0, 8: 3.0})
    heartbeat.on_cpu_time(2.0, {7: 10.0, 9: 0.5})
    assert heartbeat.cpu_active_at == 2.0
    heartbeat.on_cpu_time(3.0, {7: 10.0})
    assert heartbeat.cpu_active_at == 2.0


@pytest.fixture
def child_with_our_logging(tmp_path: Path) -> tuple[Path, list[str]]:
    config, errors = write_logging_config(tmp_path, "json", "info")
    code = (
        "import json, logging.config, os, sys, time;"
        f"logging.config.dictConfig(json.load(open({str(config)!r})));"
        "logging.getLogger('vllm.x').error('worker failed');"
        "print(os.getpgid(0) == os.getpid(), flush=True); time.sleep(60)"
    )
    return errors, [sys.executable, "-c", code]


def test_a_child_is_out_of_a_terminals_reach_and_its_errors_are_kept(
    child_with_our_logging: tuple[Path, list[str]],
) -> None:
    errors, command = child_with_our_logging
    source = str(Path(__file__).parents[3] / "server" / "src")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": source}
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"True\n"
        assert [entry.message for entry in read_errors(errors)] == ["worker failed"]
        assert child.pid in descendants()
        child.kill()
        assert child.stderr is not None
        assert json.loads(child.stderr.read())["level"] == "error"


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    middle = (
        "import os, subprocess, sys, pathlib\n"
        "from qwen_server.engine.vllm.child_logging import write_logging_config\n"
        f"config, _ = write_logging_config(pathlib.Path({str(tmp_path)!r}), 'json', 'info')\n"
        "code = 'import json, logging.config, time;'"
        " f'logging.config.dictConfig(json.load(open({str(config)!r})));print(1, flush=True);time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()\n"
    )
    source = str(Path(__file__).parents[3] / "server" / "src")
    with subprocess.Popen(
        [sys.executable, "-c", middle],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": source},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while is_alive(pid):
            assert time.monotonic() < deadline, "the child outlived its parent"
            time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_cpu_time_is_read_and_processes_that_are_gone_count_nothing() -> None:
    assert cpu_seconds([os.getpid()])[os.getpid()] > 0
    assert cpu_seconds([2**22 + 1]) == {}


def test_a_stopped_process_is_distinguished_from_a_sleeping_one() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert not any_stopped([process.pid, 2**22 + 1])
            process.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 10
            while not any_stopped([os.getpid(), process.pid]):
                assert time.monotonic() < deadline, "not seen"
                time.sleep(0.01)
            process.send_signal(signal.SIGCONT)
            while any_stopped([process.pid]):
                assert time.monotonic() < deadline, "still seen"
                time.sleep(0.01)
        finally:
            process.kill()


QWEN3 = "{% if enable_thinking is false %}...{% endif %}<tool_call>"


@pytest.mark.parametrize(
    ("template", "prompt", "tools", "reasoning", "thinks"),
    [
        (None, "", None, None, False),
        ("{{ messages }}", "<|im_start|>assistant\n", None, None, False),
        ("{#- no enable_thinking,\n no <tool_call> -#}{{ messages }}", "<|im_start|>assistant\n", None, None, False),
        (QWEN3, "<|im_start|>assistant\n", "hermes", "qwen3", False),
        ("<tool_call>", "<|im_start|>assistant\n<think>\n", "hermes", "qwen3", True),
        ("<tool_call>", "<|im_start|>assistant\n", "hermes", None, False),
        ("<tool_call><function=", "<|im_start|>assistant\n", "qwen3_xml", None, False),
    ],
)
def test_a_family_is_read_from_its_template(
    template: str | None, prompt: str, tools: str | None, reasoning: str | None, thinks: bool
) -> None:
    family = detect(template, prompt)
    assert (family.tool_parser, family.reasoning_parser, family.always_thinks) == (tools, reasoning, thinks)


def test_thinking_is_off_by_default_where_it_can_be() -> None:
    assert detect(QWEN3, "").template_defaults == {"enable_thinking": False}
    assert detect("<tool_call>", "<think>\n").template_defaults == {}


def test_a_parser_can_be_set_or_switched_off() -> None:
    assert [choose(setting, "hermes") for setting in ("auto", "none", "qwen3_xml")] == ["hermes", None, "qwen3_xml"]


def result(*choices: tuple[int, str, int, str | None], finished: bool = False, **values: Any) -> SimpleNamespace:
    outputs = [
        SimpleNamespace(index=index, text=text, token_ids=[1] * tokens, finish_reason=reason, stop_reason=None)
        for index, text, tokens, reason in choices
    ]
    defaults = {"num_cached_tokens": None, "prompt_token_ids": None, "metrics": None}
    return SimpleNamespace(outputs=outputs, finished=finished, **(defaults | values))


def test_choices_of_several_prompts_are_numbered_through() -> None:
    merger = Merger(2)
    assert [merger.add_prompt(2) for _ in range(2)] == [0, 1]
    first = merger.convert(1, result((1, "科", 1, None), prompt_token_ids=[1, 2, 3]))
    assert (first.deltas[0].index, first.deltas[0].text, first.prompt_tokens, first.finished) == (3, "科", 3, False)
    merger.convert(1, result((0, "", 1, "stop"), (1, "技", 1, "length"), finished=True, prompt_token_ids=[1, 2, 3]))
    last = merger.convert(0, result((0, "", 1, "stop"), (1, "", 1, "stop"), finished=True))
    assert (last.finished, last.prompt_tokens) == (True, 0)


def test_the_first_token_of_a_request_is_the_earliest_of_its_prompts() -> None:
    merger = Merger(1)
    merger.add_prompt(1)
    merger.add_prompt(1)
    times = [
        merger.convert(index, result(metrics=SimpleNamespace(first_token_ts=at))).first_token_at
        for index, at in ((0, 0.0), (0, 7.0), (1, 5.0), (0, 7.0))
    ]
    assert times == [None, 7.0, 5.0, 5.0]


def test_a_repetition_is_a_stop_and_an_abort_is_an_error() -> None:
    merger = Merger(1)
    merger.add_prompt(1)
    assert merger.convert(0, result((0, "a", 1, "repetition"))).deltas[0].finish_reason == "stop"
    for reason in ("abort", "error"):
        with pytest.raises(EngineError, match=reason):
            merger.convert(0, result((0, "", 0, reason)))


def test_a_grammar_that_the_engine_cannot_compile_is_the_clients_mistake() -> None:
    merger = Merger(1)
    merger.add_prompt(1, constrained=True)
    with pytest.raises(InvalidRequestError, match="grammar"):
        merger.convert(0, result((0, "", 0, "error"), finished=True))


def test_a_grammar_that_no_token_fits_any_more_is_the_clients_mistake() -> None:
    """Otherwise, requests with such grammars would raise HighErrorRate."""
    merger = Merger(1)
    merger.add_prompt(1, constrained=True)
    merger.convert(0, result((0, "a", 1, None)))
    with pytest.raises(InvalidRequestError, match="grammar"):
        merger.convert(0, result((0, "", 0, "error"), finished=True))


def test_an_error_without_a_grammar_is_the_engines() -> None:
    merger = Merger(1)
    merger.add_prompt(1)
    merger.convert(0, result((0, "a", 1, None)))
    with pytest.raises(EngineError, match="error"):
        merger.convert(0, result((0, "", 0, "error"), finished=True))
