"""Flags and words that the server does not know, above all those of `vllm serve`."""

from __future__ import annotations

import re

import pytest

from qwen_server.config import pass_through, unknown_flags
from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import ConfigurationError, Settings, flag


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        load_settings(arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--runner", "pooling"], "--runner is not a flag of the server: use --task, such as --task=embed"),
        (["--convert=embed"], "--convert is not a flag of the server: use --task"),
        (["--api-key", "abc"], "use --api-keys-dir, or the environment variable QWEN_API_KEYS"),
        (["--api-keys=abc"], "use --api-keys-dir, or the environment variable QWEN_API_KEYS"),
        (["--limit-mm-per-prompt", '{"image":2}'], "use --max-images"),
        (["--allowed-media-domains", "example.org"], "use --image-domains"),
        (["--enable-auto-tool-choice"], "it needs no flag, because --tool-call-parser is auto by default"),
        (["--allowed-origins", '["*"]'], "use --cors-origins"),
        (["--enable_log_requests"], "use --log-level, --log-format and --log-prompts"),
        (["--no-enable-log-requests"], "use --log-level, --log-format and --log-prompts"),
        (["--data-parallel-size", "2"], "use more replicas instead"),
        (["-tp", "2"], "-tp is not a flag of the server: use --tensor-parallel-size"),
        (["--ssl-keyfile=x"], "the server speaks plain HTTP"),
    ],
)
def test_a_flag_of_vllms_server_is_answered_with_what_replaces_it(arguments: list[str], told: str) -> None:
    error = refused(*arguments)
    assert told in error
    assert "`--`" not in error


def test_other_flags_are_vllms_and_follow_the_separator() -> None:
    assert refused("--max-num-seqs", "8") == (
        "--max-num-seqs is not a flag of the server: vLLM's own flags follow `--`, "
        "as in qwen-server ... -- --max-num-seqs ..."
    )
    error = refused("--port=1", "--hf-overrides", "{}", "--max-num-seqs=8", "--seed", "-1", "--hf-overrides={}")
    assert error.startswith("--hf-overrides, --max-num-seqs, --seed are not flags of the server: ")
    assert error.endswith(" -- --hf-overrides ... --max-num-seqs ... --seed ...")


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("--max-queue-siz=3", "--max-queue-size"),
        ("--served-model-names", "--served-model-name"),
        ("--no-enforce-eagr", "--no-enforce-eager"),
        ("--tensor-parallel=2", "--tensor-parallel-size"),
        ("--modle", "--model"),
    ],
)
def test_a_misspelled_flag_is_answered_with_the_one_that_was_meant(argument: str, meant: str) -> None:
    error = refused(argument)
    name = argument.partition("=")[0]
    assert error.startswith(f"{name} is not a flag of the server: did you mean {meant}?")
    assert "vLLM" in error.partition("?")[2]


def test_underscores_are_not_vllms() -> None:
    assert refused("--max_model_len=9") == "--max_model_len is not a flag of the server: did you mean --max-model-len?"


def test_a_word_without_a_flag_may_be_the_model() -> None:
    told = "'builtin:news-classifier' is not the value of a flag: if it is the model, write --model="
    assert refused("builtin:news-classifier", "--port=1") == f"{told}builtin:news-classifier"
    error = refused("serve", "Qwen/Qwen3-8B", "--runner", "pooling", "--seed", "1")
    assert [part.split()[0] for part in error.split("; ")] == ["leave", "'Qwen/Qwen3-8B'", "--runner", "--seed"]


def test_a_value_of_an_unknown_flag_is_not_shown() -> None:
    error = refused("model", "--api-key", "secret-1", "secret-2", "--hf-token=secret-3", "--other=secret-4")
    assert "secret" not in error
    assert [name in error for name in ("'model'", "--api-key ", "--hf-token ", "--other ")] == [True] * 4


def test_every_replacement_is_a_flag_of_the_server() -> None:
    hints = [*pass_through._OWNED.values(), *unknown_flags._OWN_FLAGS.values()]
    named = {name for hint in hints for name in re.findall(r"--[a-z][a-z-]*", hint)}
    assert {"--task", "--api-keys-dir", "--image-domains", "--max-images"} <= named
    assert named <= {flag(name) for name in Settings.model_fields}
    # What the server has a flag of its own for may still go to vLLM.
    assert [pass_through.why_refused(name, ()) for name in unknown_flags._OWN_FLAGS] == [""]


def test_no_flag_is_sent_to_where_it_is_refused() -> None:
    own = [flag(name) for name in Settings.model_fields]
    for name in pass_through._OWNED:
        error = unknown_flags.explain([f"--{name.replace('*', 'x')}"], own)
        assert "follow `--`" not in error, error
