"""Adapters that a new engine refuses, over several engines; no engine starts."""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration import builtin_model
from tests.lora_adapters import make_adapter

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("vllm_without_side_effects")]


class Vllm:
    """What LoadedAdapters uses of an AsyncLLM. It refuses the adapters of these keys."""

    errored = False

    def __init__(self, *refused: str) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(builtin_model.FOLDER)
        self.model_config = SimpleNamespace(hf_text_config=config)
        self._refused = refused

    async def collective_rpc(self, method: str, **_: Any) -> None:
        raise RuntimeError(f"no worker knows {method}")  # then vLLM alone decides what fits

    async def add_lora(self, lora: Any) -> None:
        if lora.lora_name in self._refused:
            raise ValueError("no room is left")


def engine(*refused: str) -> Any:
    """The adapters of an engine that refuses those of these keys."""
    from qwen_server.engine.vllm.adapters import LoadedAdapters

    models: Any = SimpleNamespace(lora_requests={})
    settings: Any = SimpleNamespace(served_name=builtin_model.NAME, max_lora_rank=16)
    vllm: Any = Vllm(*refused)
    return LoadedAdapters(vllm, models, settings)


def test_a_lost_adapter_is_told_by_a_later_engine_if_nobody_asked_the_one_that_lost_it(tmp_path: Path) -> None:
    from qwen_server.engine.base import Adapter

    folder = make_adapter(tmp_path / "news")
    first, second, third = engine(), engine("news@1"), engine()

    async def lives() -> None:
        for key in ("news@1", "sport@2"):
            await first.add(Adapter(key=key, name=key.partition("@")[0], folder=folder))
        await second.restore(first)
        await third.restore(second)

    asyncio.run(lives())
    assert list(third.all) == ["sport@2"]
    lost = third.take_lost()
    assert list(lost) == ["news@1"]
    assert "no room is left" in lost["news@1"]
    assert third.take_lost() == {}


def test_no_engine_gets_the_requests_of_an_adapter_that_it_has_refused(tmp_path: Path) -> None:
    """It would load it again during a step, and die of the failure."""
    from qwen_server.engine.base import Adapter, EngineRestartedError, InvalidRequestError

    folder = make_adapter(tmp_path / "news")
    first, second, third = engine(), engine(), engine("news@1")

    async def lives() -> None:
        await first.add(Adapter(key="news@1", name="news", folder=folder))
        await second.restore(first)
        await third.restore(second)

    asyncio.run(lives())
    begun = first.lora_of("news@1")  # by a request that has waited for all of them
    with pytest.raises(EngineRestartedError, match="its adapter could not be loaded again: no room is left"):
        first.require(begun)
    with pytest.raises(InvalidRequestError) as refused:
        third.lora_of("news@1")
    assert refused.value.message == "The adapter `news` is not loaded: no room is left"
    third.require(None)
