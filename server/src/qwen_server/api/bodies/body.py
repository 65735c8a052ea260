"""A checked request body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from qwen_server.engine.base import Adapter, Kind

_FORMATS: Final = ("response_format", "text", "output_config")
_CONSTRAINTS: Final = ("structured_outputs", *_FORMATS, "tools")


class Body(NamedTuple):
    """`fields` is what the engine gets: the known fields that are not null, with defaults applied.

    `prompts` times `n` sequences are generated; `fast` tells which path serves it;
    `stop_reasons` whether the client set stops of its own, so that the answer names the one that
    ended it (vLLM's `stop_reason`); `constrained` whether a grammar constrains the answer;
    `adapter` is the LoRA adapter that the client names as its model.
    """

    kind: Kind
    fields: Mapping[str, Any]
    prompts: int = 1
    n: int = 1
    fast: bool = False
    stop_reasons: bool = False
    constrained: bool = False
    adapter: Adapter | None = None

    @property
    def model(self) -> str:
        """The name of the served model, or of the adapter."""
        return str(self.fields["model"]) if self.adapter is None else self.adapter.name

    @property
    def stream(self) -> bool:
        """Whether the client asked for events instead of one answer."""
        return bool(self.fields.get("stream"))

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        options = self.fields.get("stream_options")
        return bool(options and options.get("include_usage"))

    @property
    def generates(self) -> bool:
        """Whether the model is asked for anything."""
        return self.kind not in ("count_tokens", "tokenize", "detokenize")

    def blamed(self, param: str | None) -> str | None:
        """The client's name for a parameter that the engine refused.

        The engine calls every constraint of an answer `response_format`.
        """
        if param in _FORMATS and param not in self.fields:
            return next((name for name in _CONSTRAINTS if name in self.fields), param)
        if param == "prompt_logprobs" and param not in self.fields:
            return "logprobs"  # with echo
        if param is None and self.fields.get("chat_template_kwargs"):
            return "chat_template_kwargs"
        return param
