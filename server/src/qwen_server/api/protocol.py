"""What a generation request may ask for: checked by hand, cheaply, with an error that names the parameter.

The result is the body as the engine gets it: defaults filled in, unknown fields dropped. Whatever depends on the model
(the template, the context length, tools, grammars) is the engine's to judge.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_server.api import checks
from qwen_server.api.checks import Check
from qwen_server.config.settings import Settings
from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import client_error, invalid

_log = logging.getLogger(__name__)
_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request.

    `weight` is the number of sequences that it generates; `fast` tells which path serves it; `stop_reasons` whether the
    client asked for stops of its own and so is told which of them it was (vLLM's `stop_reason`).
    """

    kind: Kind
    body: Mapping[str, Any]
    model: str
    stream: bool
    include_usage: bool
    weight: int
    fast: bool
    stop_reasons: bool = False

    @property
    def generates(self) -> bool:
        """Whether the model is asked for anything."""
        return self.kind not in ("count_tokens", "tokenize", "detokenize")

    @classmethod
    def of(cls, kind: Kind, body: Mapping[str, Any]) -> Call:
        """A request of one sequence that only the reference path serves."""
        stream = bool(body.get("stream"))
        return cls(kind, body, body["model"], stream=stream, include_usage=False, weight=1, fast=False)


SAMPLING: Final[dict[str, Check]] = {
    "top_p": checks.number(0, 1, above=True),
    "top_k": checks.integer(-1, 1 << 31),
    "min_p": checks.number(0, 1),
    "presence_penalty": checks.number(-2, 2),
    "frequency_penalty": checks.number(-2, 2),
    "repetition_penalty": checks.number(0.01, 10),  # below, logits overflow, and then grammars fail in the engine
    "seed": checks.integer(-_INT64, _INT64 - 1),
    "stop": checks.stop,
    "stop_token_ids": checks.stop_token_ids,
    "logit_bias": checks.logit_bias,
    "stream": checks.boolean,
    "stream_options": checks.stream_options,
    "ignore_eos": checks.boolean,
    "include_stop_str_in_output": checks.boolean,
    "skip_special_tokens": checks.boolean,
    "spaces_between_special_tokens": checks.boolean,
    "truncate_prompt_tokens": checks.integer(-1, 1 << 31),
    "add_special_tokens": checks.boolean,
    "allowed_token_ids": checks.array,
    "bad_words": checks.array,
    "prompt_logprobs": checks.integer(-1, 20),
    "return_token_ids": checks.boolean,
    "return_tokens_as_token_ids": checks.boolean,
    "response_format": checks.mapping,
    "structured_outputs": checks.structured_outputs,
    "priority": checks.integer(-_INT64, _INT64 - 1),
    "cache_salt": checks.string,
    "user": checks.string,
    "metadata": checks.anything,
    "store": checks.anything,
    "service_tier": checks.anything,
    "model": checks.string,
}
_CHAT: dict[str, Check] = SAMPLING | {
    "messages": checks.messages,
    "logprobs": checks.boolean,
    "top_logprobs": checks.integer(0, 20),
    "tools": checks.tools,
    "tool_choice": checks.anything,
    "parallel_tool_calls": checks.boolean,
    "reasoning_effort": checks.string,
    "include_reasoning": checks.boolean,
    "thinking_token_budget": checks.integer(0, 1 << 31),
    "chat_template_kwargs": checks.template_arguments,
    "add_generation_prompt": checks.boolean,
    "continue_final_message": checks.boolean,
    "documents": checks.array,
    "echo": checks.boolean,
}
_COMPLETION: dict[str, Check] = SAMPLING | {
    "prompt": checks.anything,
    "logprobs": checks.integer(0, 20),
    "echo": checks.boolean,
    "suffix": checks.string,
    "best_of": checks.integer(1, 1),
}
# Accepted from OpenAI's SDKs for what they mean elsewhere; they change nothing here.
_WITHOUT_EFFECT = ("user", "metadata", "store", "service_tier", "best_of")
_REMOVED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend")
_REFERENCE_WHEN_SET = (
    "tools",
    "echo",
    "suffix",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "reasoning_effort",
    "include_reasoning",
    "thinking_token_budget",
)


class Protocol:
    """Checks bodies against the limits of `settings`; `served_name` is the only model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        limits = limited_checks(settings)
        self._chat = _CHAT | limits
        self._completion = _COMPLETION | {name: limits[name] for name in limits if name != "max_completion_tokens"}

    def chat(self, body: dict[str, Any]) -> Call:
        """A chat request. Raises HttpError 400 or 404."""
        if body.get("messages") is None:
            raise invalid("messages is required", "messages")
        checked = self._checked(body, self._chat)
        if checked.get("top_logprobs") and not checked.get("logprobs"):
            raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
        if checked.get("max_completion_tokens") is None and checked.get("max_tokens") is None:
            checked["max_tokens"] = self._settings.default_max_tokens
        return self._call("chat", checked, prompts=1)

    def completion(self, body: dict[str, Any]) -> Call:
        """A completion request. Raises HttpError 400 or 404."""
        if body.get("prompt") is None:
            raise invalid("prompt is required", "prompt")
        prompts = _count_prompts(body["prompt"], self._settings.max_prompts)
        checked = self._checked(body, self._completion)
        if checked.get("max_tokens") is None:
            checked["max_tokens"] = self._settings.default_max_tokens
        return self._call("completion", checked, prompts=prompts)

    def check_model(self, name: str) -> None:
        """Raises HttpError 404 unless `name` is what is served."""
        check_model(name, self._settings.served_name)

    def _checked(self, body: Mapping[str, Any], known: Mapping[str, Check]) -> dict[str, Any]:
        checked = known_fields(body, known, self._settings.served_name)
        for name in _WITHOUT_EFFECT:
            checked.pop(name, None)
        if checked.get("stream_options") is not None and not checked.get("stream"):
            raise invalid("stream_options is allowed only when stream is true", "stream_options")
        checked.setdefault("temperature", self._settings.default_temperature)
        return checked

    def _call(self, kind: Kind, body: dict[str, Any], prompts: int) -> Call:
        options = body.get("stream_options") or {}
        return Call(
            kind=kind,
            body=body,
            model=body["model"],
            stream=bool(body.get("stream")),
            include_usage=bool(options.get("include_usage")),
            weight=prompts * body.get("n", 1),
            fast=not _needs_reference(body, options),
            stop_reasons="stop" in body or "stop_token_ids" in body,
        )


def check_model(name: str, served_name: str) -> None:
    """Raises HttpError 404 unless `name` is what is served."""
    if name != served_name:
        raise client_error(404, f"The model `{name[:200]}` does not exist.", param="model", code="model_not_found")


def known_fields(body: Mapping[str, Any], known: Mapping[str, Check], served_name: str) -> dict[str, Any]:
    """The fields of `known` that have a value, checked, with the model filled in. Raises HttpError 400 or 404."""
    checked: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in body.items():
        check = known.get(name)
        if check is None:
            if name in _REMOVED:
                raise invalid(f"{name} was removed; use structured_outputs or response_format", name)
            unknown.append(name)
        elif value is not None:
            check(name, value)
            checked[name] = value
    if unknown:
        names = ", ".join(sorted(name[:64] for name in unknown[:8]))
        _log.info("ignored %d unknown field(s) of a request: %r", len(unknown), names)
    check_model(checked.setdefault("model", served_name), served_name)
    return checked


def limited_checks(settings: Settings) -> dict[str, Check]:
    """The checks whose limits are configured."""
    tokens = checks.integer(1, settings.max_tokens_limit)
    return {
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "min_tokens": checks.integer(0, settings.max_tokens_limit),
        "temperature": checks.number(settings.min_temperature, settings.max_temperature),
        "n": checks.integer(1, settings.max_choices),
    }


def _needs_reference(body: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    if any(body.get(name) for name in _REFERENCE_WHEN_SET) or options.get("continuous_usage_stats"):
        return True
    # 0 and False differ: completions take `logprobs: 0` for the chosen token's own.
    if body.get("prompt_logprobs") is not None or body.get("top_logprobs") is not None:
        return True
    if body.get("logprobs") is not None and body["logprobs"] is not False:
        return True
    if body.get("tool_choice") not in (None, "none"):
        return True
    return bool((body.get("chat_template_kwargs") or {}).get("enable_thinking"))


def _count_prompts(prompt: Any, limit: int) -> int:
    """The number of prompts in a string, an array of strings, token ids, or an array of token ids."""
    if isinstance(prompt, str):
        return 1
    if not isinstance(prompt, list) or not prompt:
        raise invalid("prompt must be a string or a non-empty array", "prompt")
    if type(prompt[0]) is not int and len(prompt) > limit:
        raise invalid(f"prompt has {len(prompt)} entries; the limit is {limit}", "prompt")
    if checks.are_tokens(prompt):
        return 1
    kinds = set(map(type, prompt))
    if kinds != {str} and not (kinds == {list} and all(map(checks.are_tokens, prompt))):
        raise invalid("prompt must hold strings, token ids, or arrays of token ids, not a mixture", "prompt")
    return len(prompt)
