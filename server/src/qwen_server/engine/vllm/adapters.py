"""LoRA adapters in vLLM: loads and removes them, and finds the one that a request names.

vLLM's own serving code looks into `lora_requests`, and so does the fast path.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from safetensors import safe_open
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from qwen_server.config.settings import Settings
from qwen_server.engine.adapter_files import (
    MAX_WEIGHT,
    WEIGHTS,
    AdapterFiles,
    BrokenAdapterError,
    ModelShape,
    check_adapter,
)
from qwen_server.engine.adapter_modules import check_modules
from qwen_server.engine.base import Adapter, EngineError, InvalidRequestError, name_of, not_served
from qwen_server.engine.replays import restarted
from qwen_server.engine.vllm.patches.vllm_texts import CALL_FAILED, WORKER_FAILED

_log = logging.getLogger(__name__)
_MOST_OF_A_CAUSE = 500


class Models(OpenAIServingModels):
    """The names of the model and of its adapters in the answers of vLLM's serving code."""

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        """The name that an answer has for its model: that of an adapter as the client knows it."""
        name = super().model_name(lora_request)
        return str(name if lora_request is None else name_of(name))


class LoadedAdapters:
    """The adapters in the engine.

    The name of an adapter in vLLM is its key, because vLLM finds what it has cached of a prompt by
    that name. vLLM's own serving code and the fast path look into `models.lora_requests`.

    `all` are those that are loaded, by their keys. A new engine has to `restore` them. It shares
    `_refused` with the engines before: the keys of those that it could not load, and why.
    """

    def __init__(self, llm: AsyncLLM, models: Models, settings: Settings) -> None:
        self._llm = llm
        self._loras: dict[str, LoRARequest] = models.lora_requests
        self._served_name = settings.served_name
        self._max_rank = settings.max_lora_rank
        self._shape = ModelShape.of(llm.model_config.hf_text_config.to_dict())
        self.all: dict[str, Adapter] = {}
        self._lost: dict[str, str] = {}
        self._refused: dict[str, str] = {}

    def lora_of(self, model: str | None) -> LoRARequest | None:
        """The adapter that a request names; None for the model itself.

        Raises InvalidRequestError 404.
        """
        if not model or model == self._served_name:
            return None
        found = self._loras.get(model)
        if found is None:
            text = not_served(name_of(model), self._refused.get(model))
            raise InvalidRequestError(text, param="model", code="model_not_found", status=404)
        return found

    def require(self, lora: LoRARequest | None) -> None:
        """Raises EngineRestartedError if a later engine has refused the adapter of a request.

        vLLM would load it during a step, and the engine would die of the failure.
        """
        if lora is not None and lora.lora_name in self._refused:
            raise restarted(f"its adapter could not be loaded again: {self._refused[lora.lora_name]}")

    async def add(self, adapter: Adapter) -> None:
        """See Engine.add_adapter."""
        try:
            files = await asyncio.to_thread(check_adapter, adapter.folder, self._shape, max_rank=self._max_rank)
            await self._check_modules(adapter, files)
            await asyncio.to_thread(check_numbers, adapter.folder)
        except BrokenAdapterError as error:
            raise InvalidRequestError(str(error), param="lora_path") from None
        # The number of the key is unique in this process: a request that goes on in a new engine
        # can keep its LoRARequest.
        number = int(adapter.key.rpartition("@")[2])
        lora = LoRARequest(lora_name=adapter.key, lora_int_id=number, lora_path=str(adapter.folder))
        try:
            await self._llm.add_lora(lora)
        except Exception as error:
            _log.debug("vLLM refused an adapter", exc_info=True)
            if self._llm.errored:
                raise EngineError(f"the engine died while it loaded the adapter {adapter.name}") from error
            await self._discard(lora)
            raise InvalidRequestError(_cause(str(error)), param="lora_path") from None
        self.all[adapter.key] = adapter
        self._loras[adapter.key] = lora

    async def _check_modules(self, adapter: Adapter, files: AdapterFiles) -> None:
        """Compares the modules of an adapter with those of the model, which the workers know.

        If they cannot tell, vLLM decides alone. Raises BrokenAdapterError and EngineError.
        """
        try:
            answers = await self._llm.collective_rpc("uses_of_weights", args=(list(files.weights.values()),))
        except Exception as error:
            if self._llm.errored:
                raise EngineError(f"the engine died while it loaded the adapter {adapter.name}") from error
            _log.warning("the modules of the adapter %s cannot be compared with the model's: %s", adapter.name, error)
            return
        if unused := check_modules(files, answers):
            _log.warning("these modules of the adapter %s take no adapter, and are ignored: %s", adapter.name, unused)

    async def remove(self, adapter: Adapter) -> None:
        """See Engine.remove_adapter."""
        lora = self._loras.pop(adapter.key, None)
        self.all.pop(adapter.key, None)  # first, because the next engine must not load it
        if lora is not None:
            await self._discard(lora)

    async def restore(self, before: LoadedAdapters) -> None:
        """Loads the adapters of an engine that has died.

        Requests that go on have vLLM's objects of them, so that these keep their numbers. All are
        taken over before the first is loaded, because this engine may die of one.
        """
        self.all = dict(before.all)
        self._lost = before.take_lost()  # if it died before anybody asked
        self._refused = before._refused
        self._loras.update({key: before._loras[key] for key in self.all})
        for key, adapter in before.all.items():
            lora = self._loras[key]
            try:
                await self._llm.add_lora(lora)
            except Exception as error:
                if self._llm.errored:
                    raise EngineError(f"the engine died while it loaded the adapter {adapter.name}") from error
                self._lost[key] = self._refused[key] = _cause(str(error))
                del self.all[key], self._loras[key]

    def take_lost(self) -> dict[str, str]:
        """Those that this engine has refused to load again: their keys, and why. Once."""
        lost, self._lost = self._lost, {}
        return lost

    async def _discard(self, lora: LoRARequest) -> None:
        """Frees what vLLM holds of an adapter, which may be a part only."""
        try:
            await self._llm.remove_lora(lora.lora_int_id)
        except Exception as error:
            raise EngineError(f"the engine could not remove the adapter {lora.lora_name}: {error}") from error


def check_numbers(folder: Path) -> None:
    """Reads the weights of an adapter, of which `check_adapter` has looked only at the header.

    What is no number, or becomes none on its way through the model, stays in the KV cache, where
    other requests meet it. Raises BrokenAdapterError.
    """
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            largest = file.get_tensor(name).abs().amax().item()
            if not largest <= MAX_WEIGHT:  # also if it is no number
                raise BrokenAdapterError(f"{WEIGHTS}: {name} has {largest:g}, which is no weight of a trained adapter")


def _cause(text: str) -> str:
    """vLLM's reason for refusing an adapter, without what surrounds it."""
    found = WORKER_FAILED.search(text)
    cause = found[1] if found else text.removeprefix(CALL_FAILED)
    return " ".join(cause.split())[:_MOST_OF_A_CAUSE]
