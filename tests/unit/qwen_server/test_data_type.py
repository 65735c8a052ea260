"""The data type of a CPU engine where the model's own type is slow."""

from __future__ import annotations

import pytest

from qwen_server.engine.vllm.build import engine_arguments
from qwen_server.engine.vllm.data_type import computes_bfloat16_slowly, data_type_on_cpu
from tests.unit.qwen_server.serving import make_settings


def test_a_builtin_model_is_computed_in_float32_where_bfloat16_is_slow() -> None:
    assert data_type_on_cpu(make_settings(), slow=True) == "float32"
    assert data_type_on_cpu(make_settings(), slow=False) == "auto"


@pytest.mark.parametrize("chosen", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("model", ["builtin:news-classifier", "/models/large"])
def test_an_explicit_data_type_is_kept(chosen: str, model: str, caplog: pytest.LogCaptureFixture) -> None:
    assert data_type_on_cpu(make_settings(dtype=chosen, model=model), slow=True) == chosen
    assert not caplog.records


def test_other_models_keep_theirs_because_of_the_memory_and_the_log_names_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = make_settings(model="/models/large")
    assert data_type_on_cpu(settings, slow=False) == "auto"
    assert not caplog.records
    assert data_type_on_cpu(settings, slow=True) == "auto"
    assert "--dtype=float32 is faster, and takes twice the memory" in caplog.text


@pytest.mark.parametrize(
    ("machine", "capability", "slow"),
    [("x86_64", "AVX2", True), ("AMD64", "DEFAULT", True), ("x86_64", "AVX512", False), ("aarch64", "DEFAULT", False)],
)
def test_only_x86_without_avx512_is_slow(
    monkeypatch: pytest.MonkeyPatch, machine: str, capability: str, slow: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert computes_bfloat16_slowly() is slow
    flags = engine_arguments(make_settings(), "cpu")
    assert ("--dtype=float32" in flags, "--dtype=auto" in flags) == (slow, not slow)
    assert "--dtype=auto" in engine_arguments(make_settings(), "cuda")
