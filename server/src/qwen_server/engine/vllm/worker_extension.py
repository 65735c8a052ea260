"""Code that runs inside the engine's workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.model_executor.models.utils import PPMissingLayer, StageMissingLayer

from qwen_server.engine.adapter_modules import ABSENT, UNUSED, USED


class WorkerReports:
    """Mixed into vLLM's worker by `worker_extension_cls`."""

    def reserved_bytes(self) -> int:
        """The bytes that torch's allocator holds on the worker's device."""
        return int(torch.cuda.memory_reserved())

    def uses_of_weights(self, names: list[str]) -> list[int]:
        """What this part of the model does with an adapter's tensors of these names.

        See `adapter_modules` for the values. Raises any error if vLLM cannot read a name.
        """
        worker: Any = self
        manager = worker.model_runner.lora_manager._adapter_manager  # noqa: SLF001 - vLLM has no other way to it
        return uses_of_weights(manager, names)


def uses_of_weights(manager: Any, names: list[str]) -> list[int]:
    """What the model of vLLM's LoRAModelManager does with an adapter's tensors of these names."""
    model = manager.model
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    mapper = None if mapper is None else mapper.get_rename_mapper()
    modules = [parse_fine_tuned_lora_name(name, mapper)[0].removesuffix(".base_layer") for name in names]
    # vLLM's own search for the weights of a module, in an adapter whose weights are their names.
    named = LoRAModel(1, 1, {module: module for module in modules})
    asked = [*manager.modules, *(part for parts in manager.packed_modules.values() for part in parts)]
    used = {manager._get_lora_layer_weights(named, module) for module in asked}  # noqa: SLF001
    present, left_out = _modules_of(model, manager.packed_modules_mapping)
    skipped = list(getattr(model, "lora_skip_prefixes", None) or ())

    def use(name: str, module: str) -> int:
        if LoRAModel._should_skip_module(name, skipped):  # noqa: SLF001
            return UNUSED
        if module in used:
            return USED
        return UNUSED if module in present or module.startswith(left_out) else ABSENT

    return [use(name, module) for name, module in zip(names, modules, strict=True)]


def _modules_of(model: torch.nn.Module, packed: dict[str, list[str]]) -> tuple[set[str], tuple[str, ...]]:
    """The names of a model's modules, and what those begin with that were left out on purpose.

    vLLM leaves out the part for images of a model that reads only text. A layer that lies in
    another worker is not among them.
    """
    present: set[str] = set()
    left_out = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, StageMissingLayer):
            left_out.append(f"{name}.")
        elif not isinstance(module, PPMissingLayer):
            present.update(_names_of(name, packed))
    return present, tuple(left_out)


def _names_of(module: str, packed: dict[str, list[str]]) -> Iterator[str]:
    """The name of a module, and those of its parts in an adapter."""
    yield module
    place, dot, last = module.rpartition(".")
    parts: Iterable[str] = packed.get(last, ())
    for part in parts:
        yield f"{place}{dot}{part}"
