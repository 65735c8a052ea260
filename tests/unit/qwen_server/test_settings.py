"""Flags, environment variables, defaults, and refusals that name the flag."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_server.config.chat_template import read_chat_template
from qwen_server.config.command_line import check_adapters, check_model, load_settings
from qwen_server.config.settings import ConfigurationError, Settings
from qwen_server.config.values import RateLimit, parse_duration


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"QWEN_{name.upper()}", raising=False)


def test_defaults_are_those_of_the_specification() -> None:
    settings = load_settings([])
    assert (settings.default_max_tokens, settings.max_tokens_limit) == (100, 512)
    assert (settings.default_temperature, settings.min_temperature, settings.max_temperature) == (0.7, 0, 1)
    assert (settings.max_concurrent_requests, settings.max_queue_size) == (3, 10)
    assert settings.served_name == "qwen-news-classifier"
    assert settings.rate_limit is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h", 3600), ("500ms", 0.5), ("1m30s", 90), ("45", 45), ("0.5s", 0.5), ("0s", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert load_settings(["--queue-timeout", text]).queue_timeout == seconds


@pytest.mark.parametrize("text", ["", "s", "5x", "-1s", "1h extra", "ten seconds", "1s2"])
def test_a_bad_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--queue-timeout"):
        load_settings([f"--queue-timeout={text}"])


@given(st.integers(0, 10**6), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)]))
def test_every_whole_duration_is_read_exactly(number: int, unit: tuple[str, float]) -> None:
    assert parse_duration(f"{number}{unit[0]}") == number * unit[1]


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("QWEN_ENFORCE_EAGER", "true")
    assert load_settings([]).max_queue_size == 20
    assert load_settings(["--max-queue-size", "5"]).max_queue_size == 5
    assert load_settings([]).enforce_eager
    assert not load_settings(["--no-enforce-eager"]).enforce_eager


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "abc"], "--port"),
        (["--port", "70000"], "--port"),
        (["--max-queue-size", "-1"], "--max-queue-size"),
        (["--max-concurrent-requests", "0"], "--max-concurrent-requests"),
        (["--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["--device", "tpu"], "--device"),
        (["--rate-limit", "lots"], "--rate-limit"),
        (["--rate-limit", "0/day"], "--rate-limit"),
        (["--cors-origins", "example.org"], "--cors-origins"),
        (["--cors-origins", "https://example.org/path"], "--cors-origins"),
        (["--api-keys", "key"], "--api-keys"),
        (["--log-format", "xml"], "--log-format"),
        (["--request-timeout", "0s"], "--request-timeout"),
        (["--default-max-tokens", "600"], "--max-tokens-limit"),
        (["--max-temperature", "0.5"], "--default-temperature"),
        (["--unheard-of"], "--unheard-of"),
        (["--model"], "--model"),
        (["--model", ""], "--model"),
    ],
)
def test_a_bad_value_is_refused_naming_the_flag(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        load_settings(arguments)


def test_a_bad_variable_is_refused_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_MAX_QUEUE_SIZE", "many")
    with pytest.raises(ConfigurationError, match="QWEN_MAX_QUEUE_SIZE"):
        load_settings([])


@pytest.mark.parametrize("value", ["", " , \n"])
def test_a_variable_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("QWEN_API_KEYS", value)
    with pytest.raises(ConfigurationError, match="QWEN_API_KEYS"):
        load_settings([])


def test_keys_of_the_environment_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_API_KEYS", "very-secret")
    monkeypatch.setenv("QWEN_PORT", "many")
    with pytest.raises(ConfigurationError) as refused:
        load_settings([])
    assert "very-secret" not in str(refused.value)


@pytest.mark.parametrize(("text", "seconds"), [("10/second", 1), ("5000 / hour", 3600), ("100000/day", 86_400)])
def test_a_rate_has_one_of_four_periods(text: str, seconds: float) -> None:
    rate = load_settings(["--rate-limit", text]).rate_limit
    assert rate is not None
    assert (rate.seconds, rate.text) == (seconds, text.replace(" ", ""))


def test_origins_are_separated_by_commas_or_white_space() -> None:
    assert load_settings([]).cors_origins == ()
    given = load_settings(["--cors-origins", "https://a.example, http://b:3000 *"]).cors_origins
    assert given == ("https://a.example", "http://b:3000", "*")


def test_counts_may_be_auto() -> None:
    settings = load_settings(["--max-concurrent-requests", "auto", "--max-queue-size=auto"])
    assert (settings.max_concurrent_requests, settings.max_queue_size) == ("auto", "auto")


def test_a_rate_is_read_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(["--rate-limit", "600/minute"]).rate_limit == RateLimit(600, 60, "600/minute")
    monkeypatch.setenv("QWEN_RATE_LIMIT", "")
    assert load_settings([]).rate_limit is None


@pytest.mark.parametrize(
    ("model", "name"),
    [("Qwen/Qwen3-8B", "Qwen3-8B"), ("/models/mine/", "mine"), ("builtin:other", "other")],
)
def test_the_served_name_is_the_last_part_of_the_model(model: str, name: str) -> None:
    assert load_settings(["--model", model]).served_name == name
    assert load_settings(["--model", model, "--served-model-name", "x"]).served_name == "x"


def test_aliases_are_names_with_a_star_at_most_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings([]).model_aliases == ()
    settings = load_settings(["--model-aliases", "gpt-5-codex, claude-haiku-*,"])
    assert settings.model_aliases == ("gpt-5-codex", "claude-haiku-*")
    monkeypatch.setenv("QWEN_MODEL_ALIASES", "*")
    assert load_settings([]).answers_to("anything")
    with pytest.raises(ConfigurationError, match=r"--model-aliases.*'a\*b'"):
        load_settings(["--model-aliases=a*b"])


def test_a_model_may_have_several_names_as_in_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(["--served-model-name", "a", "b", "c", "b", "--model-aliases=d-*", "--", "--seed=1"])
    assert (settings.served_name, settings.aliases) == ("a", ("b", "c", "d-*"))
    assert [settings.answers_to(name) for name in ("a", "b", "c", "d-1", "e")] == [True, True, True, True, False]
    assert settings.pass_through == ("--seed=1",)
    assert load_settings(["--served-model-name=one, name"]).served_name == "one, name"
    monkeypatch.setenv("QWEN_SERVED_MODEL_NAME", "a  b")
    assert load_settings([]).served_model_name == ("a", "b")
    monkeypatch.setenv("QWEN_SERVED_MODEL_NAME", "")
    assert load_settings([]).served_name == "qwen-news-classifier"
    with pytest.raises(ConfigurationError, match=r"--served-model-name.*'b\*'.*--model-aliases"):
        load_settings(["--served-model-name", "a", "b*"])


def test_a_chat_template_is_read_from_a_file_or_the_flag(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_bytes("\ufeff你好 {{ messages }}".encode())
    for value, read in ((str(tmp_path / "t.jinja"), "你好 {{ messages }}"), ("{{ messages }}", "{{ messages }}")):
        assert read_chat_template(load_settings(["--chat-template", value])) == read
    assert read_chat_template(load_settings([])) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"\xff{", "not UTF-8"),
        (b" \n", "empty"),
        (b"x" * ((1 << 20) + 1), "larger than 1048576 bytes"),
    ],
)
def test_a_chat_template_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "t.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"--chat-template.*{said}"):
        read_chat_template(load_settings(["--chat-template", str(path)]))


def test_what_follows_the_separator_goes_to_vllm() -> None:
    settings = load_settings(["--port", "1", "--", "--max-num-seqs=64", "--seed", "7"])
    assert settings.pass_through == ("--max-num-seqs=64", "--seed", "7")


@pytest.mark.parametrize(
    "flag",
    [
        *("--host", "--port=1", "--uds", "--api-key", "--api-server-count", "--disable-log-stats", "--config=x.yaml"),
        *("--data-parallel-size=2", "--data_parallel_backend", "-dp", "-dpn", "--served-model-name", "--model"),
        *("--max-model-len=4", "--max_model_len", "-tp", "--tensor-parallel-size", "--shutdown-timeout", "--headless"),
        *("--hf-token=hf_secret", "--hf_token", "--allowed-origins=*", "--middleware=x", "--uvicorn-log-level"),
        *("--no-disable-log-stats", "--enable-log-requests", "--otlp-traces-endpoint=x", "--tool-call-parser=hermes"),
        *("--disable-log-requests", "--disable-server-load-tracking", "--reasoning-effort-map={}"),
        *("-t", "-tp=2", "-p", "-qfp8", "-q=fp8", "-dpx", "--logging-config.log_level", "--max-num-queued-reqs=1"),
    ],
)
def test_flags_that_the_server_owns_are_refused_by_name(flag: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(flag.split("=", maxsplit=1)[0])):
        load_settings(["--", flag])


@pytest.mark.parametrize(
    "flag",
    [
        *("--max-num-seqs=64", "--seed", "--no-enable-prefix-caching", "--disable-lora"),
        *("-1", "value", "-O3", "-ep", "-cc.mode=0", "-ac=x"),
    ],
)
def test_other_flags_pass(flag: str) -> None:
    assert load_settings(["--", flag]).pass_through == (flag,)


def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, text in (("--help", "--queue-timeout"), ("--version", "1.0.0")):
        with pytest.raises(SystemExit) as ended:
            load_settings([flag])
        assert ended.value.code == 0
        assert text in capsys.readouterr().out


def test_a_missing_builtin_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text("{}")
    settings = load_settings(["--model", "builtin:gone", "--models-dir", str(tmp_path)])
    with pytest.raises(ConfigurationError, match=r"builtin:gone.*here"):
        check_model(settings)
    check_model(settings.model_copy(update={"model": "builtin:here"}))


def test_a_missing_or_empty_folder_is_refused_and_a_repository_is_not(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ConfigurationError, match="--model"):
            check_model(load_settings(["--model", str(path)]))
    check_model(load_settings(["--model", "Qwen/Qwen3-8B"]))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("{folder}/gone", "No such file or directory"),
        ("{folder}/file", "it is not a folder"),
        ("{folder}/file/below", "Not a directory"),
        ("me/news-lora", "No such file or directory; for an adapter from a hub use --adapters-file"),
    ],
)
def test_an_adapter_without_a_folder_is_refused(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").touch()
    given = path.format(folder=tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        check_adapters(load_settings([f"--lora-modules=here={tmp_path},news={given}"]))
    assert str(refused.value) == f"--lora-modules news={given}: {said}"


def test_a_path_that_no_system_has_is_refused(tmp_path: Path) -> None:
    check_adapters(load_settings([f"--lora-modules=here={tmp_path}"]))
    with pytest.raises(ConfigurationError, match="--lora-modules news="):
        check_adapters(load_settings(["--lora-modules", '{"name": "news", "path": "/a\\u0000"}']))
