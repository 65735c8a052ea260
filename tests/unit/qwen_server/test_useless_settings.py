"""Settings that have no effect are named, and numbers that no setting can use are refused."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import ConfigurationError
from qwen_server.config.termination_log import KUBELETS_LOG
from qwen_server.config.useless_settings import useless_in_engine, useless_settings
from qwen_server.observe import logs
from qwen_server.observe.logs import write_termination_message
from qwen_server.runner import listen
from tests.unit.qwen_server.serving import make_settings


def test_a_misspelled_variable_is_named_with_the_setting_that_was_meant() -> None:
    names = ["HOME", "QWEN_MAX_QUEUE_SIZ", "QWEN_PORT", "qwen_max_stops", "QWEN_API_KEYS", "QWEN_TYPO"]
    assert list(useless_settings(make_settings(), names)) == [
        "the environment variable QWEN_MAX_QUEUE_SIZ is not a setting and has no effect; "
        "did you mean QWEN_MAX_QUEUE_SIZE?",
        "the environment variable QWEN_TYPO is not a setting and has no effect",
    ]


def test_variables_that_kubernetes_sets_for_services_are_no_mistakes() -> None:
    names = ["QWEN_SERVICE_HOST", "QWEN_SERVICE_PORT", "QWEN_SERVICE_PORT_HTTP", "QWEN_NEWS_PORT"]
    names += ["QWEN_PORT_8000_TCP", "QWEN_NEWS_PORT_8000_TCP_ADDR", "QWEN_NEWS_PORT_8000_TCP_PROTO"]
    assert list(useless_settings(make_settings(), names)) == []


def test_what_protects_nothing_is_named() -> None:
    (line,) = useless_settings(make_settings(protect_metrics=True), [])
    assert line.startswith("--protect-metrics has no effect without API keys")
    assert not list(useless_settings(make_settings(protect_metrics=True, api_keys_dir=Path("/keys")), []))
    assert not list(useless_settings(make_settings(protect_docs=True, api_keys="k"), []))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"adapters_file": Path("/a.json"), "max_loras": 2}, ["--max-loras", "--adapters-file"]),
        ({"enable_lora": True, "adapters_file": Path("/a.json"), "max_loras": 2}, []),
        ({"enable_lora": True, "lora_dirs": "/adapters"}, ["--lora-dirs"]),
        ({"enable_lora": True, "lora_dirs": "/adapters", "admin_api_keys_dir": Path("/admins")}, []),
        (
            {"task": "embed", "max_tokens_limit": 64, "default_max_tokens": 64},
            ["--default-max-tokens", "--max-tokens-limit"],
        ),
        ({"task": "embed", "max_tokens_limit": 512, "max_inputs": 8, "rate_limit": "9/second"}, []),
        (
            {"task": "rerank", "tool_call_parser": "none", "chat_template": "{}"},
            ["--tool-call-parser", "--chat-template"],
        ),
        ({"max_inputs": 8}, ["--max-inputs"]),
    ],
)
def test_what_the_server_never_reads_is_named(settings: dict[str, Any], named: list[str]) -> None:
    assert [line.split()[0] for line in useless_settings(make_settings(**settings), [])] == named


@pytest.mark.parametrize(
    ("device", "reads_images", "named"),
    [
        ("cpu", True, ["--gpu-memory-utilization", "--max-loras"]),
        ("cuda", True, ["--kv-cache-gib"]),
        ("cuda", False, ["--kv-cache-gib", "--max-images", "--image-domains"]),
    ],
)
def test_what_the_engine_never_reads_is_named(device: str, *, reads_images: bool, named: list[str]) -> None:
    given: dict[str, Any] = {"gpu_memory_utilization": 0.5, "kv_cache_gib": 2, "max_loras": 2}
    settings = make_settings(max_images=2, image_domains="example.org", enable_lora=True, **given)
    found = list(useless_in_engine(settings, device=device, reads_images=reads_images))
    assert [line.split()[0] for line in found] == named
    assert not list(useless_in_engine(make_settings(), device=device, reads_images=reads_images))


def test_a_file_for_the_cause_of_an_exit_is_created_or_named(tmp_path: Path) -> None:
    file, missing = tmp_path / "cause", tmp_path / "none" / "cause"
    assert not list(useless_settings(make_settings(termination_log=file), []))
    for text in ("the engine died", "短"):
        write_termination_message(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert not list(useless_settings(make_settings(termination_log=file), []))
    assert list(useless_settings(make_settings(termination_log=missing), [])) == [
        f"--termination-log {missing} has no effect: it does not exist, and cannot be created in {missing.parent}"
    ]
    write_termination_message(missing, "lost")
    assert not missing.parent.exists()
    (line,) = useless_settings(make_settings(termination_log=tmp_path), [])
    assert line.endswith("it is not a file that can be written")
    assert make_settings().termination_log == KUBELETS_LOG  # which nobody but the kubelet creates


def test_the_kubelets_file_is_not_created_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "termination-log"
    monkeypatch.setattr(logs, "KUBELETS_LOG", file)
    logs.write_termination_message(file, "x")
    assert not file.exists()
    file.touch()
    logs.write_termination_message(file, "x")
    assert file.read_text() == "x"


@pytest.mark.parametrize("flag", ["kv-cache-gib", "max-temperature", "min-temperature", "default-temperature"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_is_finite(flag: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--{flag} "):
        load_settings([f"--{flag}={value}"])


def test_an_endless_duration_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--queue-timeout"):
        load_settings(["--queue-timeout=" + "9" * 400])


def test_a_duration_beyond_what_the_kernel_knows_is_the_longest_that_it_knows() -> None:
    with listen(make_settings(host="127.0.0.1", port=0, keep_alive_timeout="1000h")) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == (1 << 31) - 1


def test_what_is_a_variable_only_is_not_called_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_API_KEYS", " ")
    with pytest.raises(ConfigurationError, match=re.escape("QWEN_API_KEYS: it contains no key")) as refused:
        load_settings([])
    assert "--api-keys" not in str(refused.value)
