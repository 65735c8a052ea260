"""lm-eval's local-completions: loglikelihoods by echo and logprobs, and generated answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.programs import run
from tests.clients.questions import NAME
from tests.integration.server_process import ServerProcess

HEADLINES = {"苹果发布新款iPhone": "科技", "央行宣布降息25个基点": "财经"}
CLASSES = ["科技", "财经", "体育"]
PROMPT = "请分类：{}\n类别："
CHOICE = """\
task: headlines
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: {classes}
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
GENERATED = """\
task: generated
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
generation_kwargs: {{until: ["\\n"], max_gen_toks: 16, do_sample: false, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""

pytestmark = pytest.mark.timeout(420)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    data = tmp_path / "headlines.jsonl"
    lines = [{"question": PROMPT.format(text), "answer": label} for text, label in HEADLINES.items()]
    data.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    for name, task in (("headlines", CHOICE), ("generated", GENERATED)):
        text = task.format(data=data, classes=json.dumps(CLASSES, ensure_ascii=False))
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def evaluate(server: ServerProcess, key: str, model: Path, tasks: Path, task: str) -> tuple[dict[str, Any], list[Any]]:
    """The figures of a task, and its samples."""
    endpoint = f"model={NAME},base_url={server.url}/v1/completions,tokenizer={model},tokenizer_backend=huggingface"
    options = ("--tasks", task, "--include_path", str(tasks), "--output_path", str(tasks / "out"), "--log_samples")
    arguments = ("--model", "local-completions", "--model_args", f"{endpoint},num_concurrent=2", *options)
    run("lm_eval", *arguments, folder=tasks, OPENAI_API_KEY=key, HF_HUB_OFFLINE="1")
    (results,) = (tasks / "out").rglob("results_*.json")
    (samples,) = (tasks / "out").rglob(f"samples_{task}_*.jsonl")
    return json.loads(results.read_text())["results"][task], [
        json.loads(line) for line in samples.read_text().splitlines()
    ]


def test_choices_are_ranked_by_their_loglikelihood(
    server: ServerProcess, key: str, model_folder: Path, tasks: Path
) -> None:
    figures, samples = evaluate(server, key, model_folder, tasks, "headlines")
    assert figures["acc,none"] == 1.0
    for sample in samples:
        likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
        for label, found in zip(CLASSES, likelihoods, strict=True):
            assert found == pytest.approx(scored(server, key, sample["doc"]["question"], label), abs=0.05)


def scored(server: ServerProcess, key: str, prompt: str, label: str) -> float:
    """The log probability of `label` after `prompt`, by vLLM's own parameter."""
    body = {"model": NAME, "prompt": prompt + label, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=60).json()
    (entry,) = answer["choices"][0]["prompt_logprobs"][-1].values()
    return float(entry["logprob"])


def test_answers_are_generated(server: ServerProcess, key: str, model_folder: Path, tasks: Path) -> None:
    figures, _ = evaluate(server, key, model_folder, tasks, "generated")
    assert figures["exact_match,none"] == 1.0
