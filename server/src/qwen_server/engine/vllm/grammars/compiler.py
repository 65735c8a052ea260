"""The job of the fork server: compiles a grammar with vLLM's own code, as the engine core will.

Jobs and results are JSON, because a job's process has read a client's text.
"""

from __future__ import annotations

import json
import pickle
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.structured_output.backend_guidance import GuidanceBackend
from vllm.v1.structured_output.backend_lm_format_enforcer import LMFormatEnforcerBackend
from vllm.v1.structured_output.backend_outlines import OutlinesBackend
from vllm.v1.structured_output.backend_types import StructuredOutputBackend, StructuredOutputGrammar
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend
from vllm.v1.structured_output.request import get_structured_output_key

from qwen_server.engine.vllm.grammars.forking import Work

# With `auto`, vLLM would choose a backend for each grammar, but the core keeps the first one for
# all. So all grammars get the same one, the one that vLLM prefers.
FIRST_CHOICE: Final = "xgrammar"
_BACKENDS: Final[Mapping[str, type[StructuredOutputBackend]]] = {
    FIRST_CHOICE: XgrammarBackend,
    "guidance": GuidanceBackend,
    "outlines": OutlinesBackend,
    "lm-format-enforcer": LMFormatEnforcerBackend,
}
# xgrammar's errors begin with a time and a line of its source.
_PLACE: Final = re.compile(r"\[[0-9:]+\] \S+:[0-9]+: ")
_INTERNAL: Final = re.compile(r"Check failed|Internal|std::")
_STEPS: Final = 24
# A step of the engine waits for the masks of all requests.
_MASK_SECONDS: Final = 0.05
# Some grammars become ambiguous later. The patch bounded-masks rejects what is not found here.
_MOST_STEPS: Final = 512
_LONGEST_WALK_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Setup:
    """What the fork server needs from the server. It is pickled."""

    config: VllmConfig


def start(setup: bytes) -> Work:
    """Loads the tokenizer and the backend. Returns the function for the jobs."""
    given: Setup = pickle.loads(setup)  # noqa: S301 - from the server itself
    config = given.config
    wanted = config.structured_outputs_config.backend
    tokenizer = cached_tokenizer_from_config(model_config=config.model_config)
    return Compiler(config, tokenizer, wanted if wanted in _BACKENDS else FIRST_CHOICE).examine


class Compiler:
    """Examines grammars with the backend of that name, which is the engine core's."""

    def __init__(self, config: VllmConfig, tokenizer: Any, name: str) -> None:
        self._config = config
        self._name = name
        self._tokenizer = tokenizer
        vocabulary = config.model_config.get_vocab_size()
        self._backend = _BACKENDS[name](config, tokenizer=tokenizer, vocab_size=vocabulary)

    def examine(self, job: bytes) -> bytes:
        """The result for the fields of a StructuredOutputsParams.

        It has `checked`, the fields as the engine core needs them, or `refused`, the reason.
        """
        try:
            result = self._examine(json.loads(job))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - backends raise anything for what they do not take
            result = {"refused": _text(error)}
        return json.dumps(result).encode()

    def _examine(self, fields: dict[str, Any]) -> dict[str, Any]:
        params = SamplingParams(structured_outputs=StructuredOutputsParams(**fields))
        params._validate_structured_outputs(  # noqa: SLF001 - the part of `verify` that is about grammars
            self._config.model_config, self._config.structured_outputs_config, self._tokenizer
        )
        checked = params.structured_outputs
        if checked is None:
            raise VLLMValidationError("there is no grammar")
        if checked.json is not None and not isinstance(checked.json, str):
            checked.json = json.dumps(checked.json)  # as the core would for each request
        kind, text = get_structured_output_key(checked)
        grammar = self._backend.compile_grammar(kind, text)
        _walk(grammar, self._config.model_config.get_vocab_size())
        size = getattr(getattr(grammar, "ctx", None), "memory_size_bytes", 0)
        return {"checked": _fields(checked), "backend": self._name, "bytes": size}


def _fields(params: StructuredOutputsParams) -> dict[str, Any]:
    """The fields that are set and that the constructor takes."""
    return {
        name: value for name, value in vars(params).items() if not name.startswith("_") and value not in (None, False)
    }


def _walk(grammar: StructuredOutputGrammar, vocabulary: int) -> None:
    """Takes some steps through the grammar. Raises VLLMValidationError if it is unfit to run.

    Some grammars compile fast, but need long for each token, and some accept nothing.
    """
    mask = torch.full((1, (vocabulary + 31) // 32), -1, dtype=torch.int32)
    recent: deque[float] = deque(maxlen=_STEPS)
    end = time.perf_counter() + _LONGEST_WALK_SECONDS
    for step in range(1, _MOST_STEPS + 1):
        before = time.perf_counter()
        if step > _STEPS and before > end:
            break
        grammar.fill_bitmask(mask, 0)
        used = time.perf_counter() - before
        allowed = _allowed(mask, vocabulary)
        if not allowed and step == 1:
            raise VLLMValidationError("the grammar accepts no answer")
        before = time.perf_counter()
        ends = not allowed or not grammar.accept_tokens("check", [allowed[(step * 7919) % len(allowed)]])
        recent.append(used + time.perf_counter() - before)
        if ends or grammar.is_terminated():
            break
        if step >= _STEPS:
            _check_cost(recent)
    _check_cost(recent)


def _check_cost(seconds: Sequence[float]) -> None:
    mean = sum(seconds) / len(seconds)
    if mean > _MASK_SECONDS:
        raise VLLMValidationError(f"the grammar takes {1000 * mean:.0f} ms a token; it is too ambiguous")


def _allowed(mask: torch.Tensor, vocabulary: int) -> list[int]:
    """The tokens that a mask allows."""
    bits = mask[0].unsqueeze(1).bitwise_right_shift(torch.arange(32, dtype=torch.int32)) & 1
    found: list[int] = bits.flatten()[:vocabulary].nonzero().flatten().tolist()
    return found


def _text(error: Exception) -> str:
    """The reason, with those that it was raised from."""
    cause = error.__cause__
    text = str(error.args[0]) if error.args else type(error).__name__
    if cause is not None and str(cause) not in text:
        text = f"{text} ({cause})"
    if _INTERNAL.search(text):
        return "the grammar cannot be compiled; make it simpler"
    return _PLACE.sub("", text).strip()
