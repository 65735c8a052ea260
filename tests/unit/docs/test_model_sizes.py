"""The sizes of docs/models.md: the formula gives what is published, and the table is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_sizes import BEGIN, GPUS, MIB, PAGE, Model, main, models, table

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
# As the repositories of the models and their ports to other frameworks state them.
PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
}
H100 = GPUS["80 GB (H100)"] * MIB


def model(name: str) -> Model:
    (found,) = [candidate for candidate in models() if candidate.name == name]
    return found


def test_the_parameters_are_those_that_are_published() -> None:
    assert {found.name: found.parameters for found in models()} == PUBLISHED


def test_the_parameters_of_the_built_in_model_are_those_of_its_weights() -> None:
    folder = ROOT / "server" / "models" / "news-classifier"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = Model.from_config("news-classifier", config)
    assert found.parameters == 3_810_496
    # The file has a header of some kilobytes before the weights.
    header = (folder / "model.safetensors").stat().st_size - found.weight_bytes
    assert 0 < header < 10_000


def test_the_example_of_the_page_is_computed_alike() -> None:
    found = model("Qwen/Qwen3-8B")
    assert found.kv_bytes_per_token == 147_456
    assert "x 36 x 8 x 128 x 2 = 147,456 bytes, which is 144 KiB." in TEXT


def test_heads_that_cannot_be_shared_are_on_every_gpu() -> None:
    found = model("Qwen/Qwen3-235B-A22B")
    assert found.kv_heads == 4
    assert found.kv_bytes_per_token_and_gpu(4) * 4 == found.kv_bytes_per_token
    assert found.kv_bytes_per_token_and_gpu(8) == found.kv_bytes_per_token_and_gpu(4)


def test_as_many_gpus_are_needed_as_hold_one_whole_context() -> None:
    found = model("Qwen/Qwen3-32B")
    assert found.kv_tokens(1, H100) < found.context
    assert found.fewest_gpus(H100) == 2
    assert found.kv_tokens(2, H100) // 1000 == 320
    assert "320,000 tokens: for example 64 requests of 5,000 tokens" in TEXT
    assert model("Qwen/Qwen3-235B-A22B").fewest_gpus(GPUS["24 GB (L4)"] * MIB) is None
    assert model("Qwen/Qwen3-235B-A22B").kv_tokens(8, GPUS["24 GB (L4)"] * MIB) == 0


def test_a_model_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="does not hold for qwen3_next"):
        Model.from_config("Qwen/Qwen3-Next-80B-A3B", {"model_type": "qwen3_next"})


def test_the_table_is_current() -> None:
    assert table() in TEXT
    assert main(["--check", f"--root={ROOT}"]) == 0


def test_an_outdated_table_is_noticed_and_written_again(tmp_path: Path) -> None:
    page = tmp_path / PAGE
    page.parent.mkdir()
    page.write_text(TEXT.replace("| `Qwen/Qwen3-8B` |", "| `Qwen/Qwen3-9B` |"), encoding="utf-8")
    assert main(["--check", f"--root={tmp_path}"]) == 1
    assert main([f"--root={tmp_path}"]) == 0
    assert page.read_text(encoding="utf-8") == TEXT


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / PAGE
    page.parent.mkdir()
    page.write_text(TEXT.replace(BEGIN, ""), encoding="utf-8")
    with pytest.raises(ValueError, match="has no"):
        main([f"--root={tmp_path}"])
