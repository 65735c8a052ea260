"""What a model does with an adapter's weights, by vLLM's own search; the models have no weights."""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qwen_server.engine.adapter_modules import ABSENT, UNUSED, USED

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("vllm_without_side_effects")]

LAYER = "language_model.model.layers.0"
LAYERS = (f"{LAYER}.self_attn.qkv_proj", f"{LAYER}.self_attn.o_proj", f"{LAYER}.mlp.experts")
PACKED = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
    "experts": ["experts.0.up_proj", "experts.1.up_proj"],
}


def uses(names: dict[str, int], *layers: str, pooling: bool = False, **others: Any) -> dict[str, int]:
    """What a model does with an adapter's weights for modules of these names.

    layers: its modules that take adapters. others: its other modules, by their names.
    """
    import torch
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.model_executor.models.utils import WeightsMapper

    from qwen_server.engine.vllm.worker_extension import uses_of_weights

    model: Any = torch.nn.Module()
    for name, module in (dict.fromkeys(layers) | others).items():
        place, _, last = name.rpartition(".")
        parent = model
        for part in filter(None, place.split(".")):
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, module or torch.nn.Module())
    prefixes = {"model.language_model.": "language_model.model.", "model.visual.": "visual."}
    model.hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix=prefixes)
    model.lora_skip_prefixes = ["mtp."]
    manager: Any = LoRAModelManager.__new__(LoRAModelManager)
    vars(manager).update(model=model, packed_modules={}, packed_modules_mapping=PACKED)
    vars(manager).update(modules={name: SimpleNamespace() for name in layers}, is_pooling_model=pooling)
    for name in layers:
        manager._register_packed_modules(name)
    found = uses_of_weights(manager, [f"base_model.model.{name}.lora_A.weight" for name in names])
    return dict(zip(names, found, strict=True))


def test_weights_are_used_under_the_names_of_the_hub_and_of_vllm() -> None:
    theirs = "model.language_model.layers.0"
    expected = {
        f"{theirs}.self_attn.q_proj": USED,
        f"{LAYER}.self_attn.o_proj": USED,
        f"{theirs}.mlp.experts.1.up_proj": USED,
        f"{theirs}.mlp.experts.base_layer": USED,  # all experts in one tensor
        f"{theirs}.mlp.experts.2.up_proj": ABSENT,
        "model.language_model.layers.1.self_attn.q_proj": ABSENT,
        "model.language_model.foo.q_proj": ABSENT,
        "self_attn.q_proj": ABSENT,
    }
    assert uses(expected, *LAYERS) == expected


def test_a_part_for_images_that_takes_no_adapter_or_is_left_out_is_no_stranger() -> None:
    from vllm.model_executor.models.utils import PPMissingLayer, StageMissingLayer

    others: dict[str, Any] = {
        "visual.blocks.0.attn.qkv": None,
        "visual.blocks.0.mlp.gate_up_proj": None,
        "audio": StageMissingLayer("audio"),
        "language_model.model.layers.1": PPMissingLayer(),  # in another worker
    }
    expected = {
        "model.visual.blocks.0.attn.qkv": UNUSED,
        "model.visual.blocks.0.mlp.up_proj": UNUSED,
        "model.visual.blocks.1.attn.qkv": ABSENT,
        "audio.layers.0.q_proj": UNUSED,
        "model.language_model.layers.1.self_attn.q_proj": ABSENT,
        "mtp.layers.0.self_attn.q_proj": UNUSED,
    }
    assert uses(expected, *LAYERS, **others) == expected


def test_a_pooling_model_finds_the_names_without_their_first_part() -> None:
    expected = {"layers.0.self_attn.o_proj": USED, "layers.0.self_attn.k_proj": USED, "layers.0.mlp.q_proj": ABSENT}
    assert (
        uses(expected, "model.layers.0.self_attn.qkv_proj", "model.layers.0.self_attn.o_proj", pooling=True) == expected
    )
