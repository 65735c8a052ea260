"""The files of a LoRA adapter: what is wrong with them is found before the engine reads them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_server.engine.adapter_files import (
    CONFIG,
    WEIGHTS,
    AdapterFiles,
    BrokenAdapterError,
    ModelShape,
    check_adapter,
)
from qwen_server.engine.adapter_modules import ABSENT, UNUSED, USED, check_modules
from tests.integration.builtin_model import FOLDER
from tests.lora_adapters import make_adapter, weights, write_config, write_file, write_weights

MODEL = json.loads((FOLDER / "config.json").read_text())
SHAPE = ModelShape.of(MODEL)
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


def refusal(folder: Path, shape: ModelShape = SHAPE) -> str:
    with pytest.raises(BrokenAdapterError) as refused:
        check_adapter(folder, shape, max_rank=16)
    return str(refused.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "adapter")


def test_an_adapter_of_the_model_is_accepted(folder: Path) -> None:
    files = check_adapter(folder, SHAPE, max_rank=16)
    assert files.base == "qwen-news-classifier"
    assert files.weights["model.layers.0.self_attn.q_proj"] == f"{Q_PROJ}.lora_A.weight"
    assert len(files.weights) == 4


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 32}, "rank is 32, and the highest is 16 (set by --max-lora-rank)"),
        ({"rank_pattern": {"q_proj": 64}}, "rank is 64"),
        ({"r": 0}, "whole number above 0, not 0"),
        ({"r": "4"}, "not 4"),
        ({"r": True}, "not True"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
        ({"lora_alpha": 0}, "lora_alpha must be a number above 0"),
        ({"alpha_pattern": {"q_proj": float("inf")}}, "lora_alpha must be a number"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": ["c_attn", "layers.0.c_proj"]}, "names no module of the model: c_attn, layers.0.c_proj"),
        ({"peft_type": "IA3"}, "peft_type must be LORA, not IA3"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"bias": "all"}, "bias must be none, not all"),
        ({"init_lora_weights": "pissa"}, "changes the model's own weights"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"rank_pattern": [4]}, "rank_pattern"),
        ({"r": 8}, "has the rank 4, and adapter_config.json says 8 (it was trained for qwen-news-classifier)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(folder: Path, config: dict[str, Any], words: str) -> None:
    write_config(folder, **config)
    assert words in refusal(folder)


def test_ranks_and_factors_by_module_are_accepted(folder: Path) -> None:
    write_config(folder, rank_pattern={"self_attn.q_proj": 4}, alpha_pattern={"v_proj": 8.5}, init_lora_weights="eva")
    check_adapter(folder, SHAPE, max_rank=16)


@pytest.mark.parametrize(
    "targets",
    [
        *("all-linear", r"model\.layers\.\d+\.self_attn\.(q|v)_proj", []),
        *(["q_proj"], ["self_attn.v_proj"], ["model.layers.1.mlp.down_proj"], ["c_attn", "lm_head"], ["qkv_proj"]),
    ],
)
def test_modules_are_named_whole_by_their_end_or_by_an_expression(folder: Path, targets: Any) -> None:
    write_config(folder, target_modules=targets)
    check_adapter(folder, SHAPE, max_rank=16)


def test_names_that_the_weights_or_an_unknown_model_may_have_are_accepted(folder: Path) -> None:
    write_config(folder, target_modules=["wqkv"])
    check_adapter(folder, ModelShape.of(MODEL | {"model_type": "mamba"}), max_rank=16)
    renamed = {name.replace("self_attn.q_proj", "attn.wqkv"): matrix for name, matrix in weights(seed=1).items()}
    write_weights(folder / WEIGHTS, renamed)
    check_adapter(folder, SHAPE, max_rank=16)


MODULES = {f"model.layers.{number}.mlp.up_proj": f"tensor {number}" for number in range(7)}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([[USED] * 6 + [ABSENT]], "that the model does not have: model.layers.6.mlp.up_proj (it was trained for qwen)"),
        ([[ABSENT] * 7], "model.layers.3.mlp.up_proj and 3 more (it was trained for qwen)"),
        ([[UNUSED] * 7], "only for modules that take no adapter: model.layers.0.mlp.up_proj, "),
        ([[ABSENT] * 3 + [USED] * 4, [USED] * 2 + [ABSENT] * 5], "does not have: model.layers.2.mlp.up_proj ("),
    ],
)
def test_modules_that_no_part_of_the_model_has_are_named(answers: list[list[int]], words: str) -> None:
    with pytest.raises(BrokenAdapterError) as refused:
        check_modules(AdapterFiles("qwen", MODULES), answers)
    assert words in str(refused.value)


def test_modules_of_several_workers_and_some_that_take_no_adapter_are_accepted() -> None:
    files = AdapterFiles("", MODULES)
    assert check_modules(files, [[USED] * 4 + [ABSENT] * 3, [ABSENT] * 4 + [USED] * 3]) == ""
    assert check_modules(files, [[USED] * 6 + [UNUSED]]) == "model.layers.6.mlp.up_proj"


def header_of(**entry: Any) -> bytes:
    right = {"dtype": "F32", "shape": [4, 192], "data_offsets": [0, 4 * 192 * 4]}
    return json.dumps({f"{Q_PROJ}.lora_A.weight": right | entry}).encode()


def test_weights_of_another_model_are_refused_by_name(folder: Path) -> None:
    """vLLM would take these without an error: they are smaller than the model's."""
    write_weights(folder / WEIGHTS, weights(seed=1, inputs=128))
    text = refusal(folder)
    assert "self_attn.q_proj has 192 inputs in the model, and 128 in the adapter" in text
    assert "trained for qwen-news-classifier" in text


def test_more_layers_than_the_model_has_are_refused(folder: Path) -> None:
    write_weights(folder / WEIGHTS, weights(seed=1, layers=3))
    assert "weights for layer 2, but the model has 2 layers" in refusal(folder)


def test_a_model_that_is_not_known_here_is_left_to_vllm(folder: Path) -> None:
    shape = ModelShape.of(MODEL | {"model_type": "mamba"})
    write_weights(folder / WEIGHTS, weights(seed=1, inputs=128))
    check_adapter(folder, shape, max_rank=16)


def test_one_half_of_an_adapter_is_refused(folder: Path) -> None:
    matrices = weights(seed=1)
    del matrices[f"{Q_PROJ}.lora_B.weight"]
    write_weights(folder / WEIGHTS, matrices)
    assert "has lora_A only" in refusal(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "there is no adapter_config.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "there is no adapter_model.safetensors"),
        (lambda folder: (folder / CONFIG).write_text("{"), "adapter_config.json is damaged"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "adapter_config.json is damaged"),
        (lambda folder: (folder / CONFIG).write_text("[" * 100_000), "adapter_config.json is damaged"),
        (lambda folder: (folder / CONFIG).write_text(" " * (1 << 20) + "{}"), "larger than"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "damaged, or not in the format"),
        (lambda folder: (folder / WEIGHTS).write_bytes(os.urandom(64)), "damaged, or not in the format"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), "is a pickle"),
        (lambda folder: os.truncate(folder / WEIGHTS, 10_000), "is truncated"),
        (lambda folder: write_file(folder / WEIGHTS, b"{}", b""), "has 0 tensors"),
        (lambda folder: write_file(folder / WEIGHTS, b"[1]", b""), "not a JSON object"),
        (lambda folder: write_file(folder / WEIGHTS, header_of(shape=[4]), b""), "must be a matrix"),
        (lambda folder: write_file(folder / WEIGHTS, header_of(shape=[4, "192"]), b""), "must be a matrix"),
        (lambda folder: write_file(folder / WEIGHTS, header_of(dtype="F8"), b""), "must have the type F32"),
        (lambda folder: write_file(folder / WEIGHTS, header_of(data_offsets=None), b""), "no place in the file"),
        (lambda folder: write_file(folder / WEIGHTS, header_of(data_offsets=[0, 4]), b""), "size of its place"),
        (lambda folder: write_file(folder / WEIGHTS, header_of(shape=[1 << 62, 4]), b""), "size of its place"),
        (lambda folder: write_weights(folder / WEIGHTS, {"lm_head.weight": [[1.0]]}), "not a weight of a LoRA"),
    ],
)
def test_damaged_files_are_refused_with_their_names(folder: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(folder)
    assert words in refusal(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)
    assert "adapter_config.json is not a file" in refusal(folder)


def test_experts_have_shapes_of_their_own() -> None:
    config = MODEL | {"model_type": "qwen3_moe", "moe_intermediate_size": 96, "shared_expert_intermediate_size": 48}
    shape = ModelShape.of(config)
    assert shape.expected("model.layers.1.mlp.experts.7.down_proj") == (96, 192)
    assert shape.expected("model.layers.1.mlp.shared_expert.up_proj") == (192, 48)
    assert shape.expected("model.layers.1.mlp.gate_proj") == (192, 384)
    assert shape.expected("model.layers.1.mlp.gate") is None
