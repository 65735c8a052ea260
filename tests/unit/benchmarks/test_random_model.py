"""The model of random weights that a GPU is measured with."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks import random_model
from qwen_server.config.settings import Settings
from qwen_server.control.fit import shape_of
from qwen_server.observe.model_files import read_weights


def test_the_weights_are_those_of_the_published_sizes() -> None:
    """By the parameters that Qwen publishes, in billions."""
    for name, billions in (("Qwen3-0.6B", 0.6), ("Qwen3-4B", 4.02), ("Qwen3-8B", 8.19), ("Qwen3-32B", 32.76)):
        config = random_model.config_of(random_model.shapes()[name], None)
        total = sum(rows * (columns[0] if columns else 1) for _, (rows, *columns) in random_model.weights_of(config))
        assert total / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_model_is_written_that_the_server_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 16, "vocab_size": 16064}
    shape = random_model.shapes()["Qwen3-8B"] | small | {"num_attention_heads": 2, "num_key_value_heads": 1}
    monkeypatch.setattr(random_model, "_SHARD_BYTES", 1 << 20)
    folder = tmp_path / "model"
    random_model.write(folder, random_model.config_of(shape, 2), "cpu", 0)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert shape_of(config, Settings(model=str(folder))) is not None
    weights = read_weights(folder, tied=False, quantized=False)
    assert weights is not None
    assert len(list(folder.glob("*.safetensors"))) == 2  # a table of words of a MiB each, and the rest
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == 2 * weights.values
    with safe_open(folder / index["weight_map"]["lm_head.weight"], "pt") as file:
        head = file.get_tensor("lm_head.weight")
    said = random_model.words()
    assert len(said) > 10_000
    assert head[said].any(dim=1).all()
    assert not head[[0, 1, 2, 16_063]].any()


def test_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, named in (([str(tmp_path)], "exists"), ([str(tmp_path / "x"), "--layers=0"], "--layers")):
        with pytest.raises(SystemExit):
            random_model.main(line)
        assert named in capsys.readouterr().err
