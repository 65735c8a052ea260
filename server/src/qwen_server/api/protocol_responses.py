"""What a request of OpenAI's Responses API may ask for.

Nothing is stored between requests, so that what refers to an earlier one is refused; `store`, which clients
set without a thought because it is OpenAI's default, is ignored as vLLM does.
"""

from __future__ import annotations

from typing import Any, NoReturn

from qwen_server.api import checks
from qwen_server.api.checks import Check
from qwen_server.api.protocol import SAMPLING, Call, known_fields, limited_checks
from qwen_server.config.settings import Settings
from qwen_server.http.error_bodies import invalid

_MAX_ITEMS = 4096
_MAX_TOOLS = 1024
_MAX_METADATA = 16  # OpenAI's limit
_TOOL_TYPES = ("function", "custom", "namespace")  # all others are run by OpenAI's servers
_WITHOUT_EFFECT = ("store", "background", "prompt_cache_key", "safety_identifier", "stream_options")


def _input(name: str, value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not value:
        raise invalid(f"{name} must be a string or a non-empty array", name)
    if len(value) > _MAX_ITEMS:
        raise invalid(f"{name} has {len(value)} entries; the limit is {_MAX_ITEMS}", name)
    for index, item in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(item, dict):
            raise invalid(f"{place} must be an object", place)
        checks.simple(place, item)
        if item.get("type", "message") == "message":
            _message(place, item)
        elif not isinstance(item["type"], str):
            raise invalid(f"{place}.type must be a string", f"{place}.type")


def _message(place: str, item: dict[str, Any]) -> None:
    if not isinstance(item.get("role"), str):
        raise invalid(f"{place}.role must be a string", f"{place}.role")
    content = item.get("content")
    if isinstance(content, str):
        return
    place = f"{place}.content"
    if not isinstance(content, list) or not content:
        raise invalid(f"{place} must be a string or a non-empty array", place)
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise invalid(f"{place} must hold objects with a type", place)
        if part["type"] in ("input_text", "output_text") and not isinstance(part.get("text"), str):
            raise invalid(f"{place}: a part of type {part['type']} must have a string text", place)


def _tools(name: str, value: Any) -> None:
    checks.few(_MAX_TOOLS)(name, value)
    for index, tool in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(tool, dict):
            raise invalid(f"{place} must be an object", place)
        if tool.get("type") not in _TOOL_TYPES:
            raise invalid(f"{place}.type must be one of {', '.join(_TOOL_TYPES)}: no other tool is run here", place)
        if tool["type"] == "namespace":
            checks.few(_MAX_TOOLS)(f"{place}.tools", tool.get("tools"))


def _metadata(name: str, value: Any) -> None:
    checks.mapping(name, value)
    if len(value) > _MAX_METADATA:
        raise invalid(f"{name} has {len(value)} entries; the limit is {_MAX_METADATA}", name)


def _needs_store(name: str, value: Any) -> NoReturn:
    raise invalid(f"{name} needs stored responses, and this server stores none", name)


def _foreground(name: str, value: Any) -> None:
    checks.boolean(name, value)
    if value:
        _needs_store(name, value)


_FIELDS: dict[str, Check] = {name: SAMPLING[name] for name in (
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "stream",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "structured_outputs",
    "priority",
    "cache_salt",
    "user",
    "model",
)} | {
    "input": _input,
    "instructions": checks.string,
    "max_tool_calls": checks.integer(0, 1 << 31),
    "include": checks.few(16),
    "metadata": _metadata,
    "parallel_tool_calls": checks.boolean,
    "reasoning": checks.mapping,
    "include_reasoning": checks.boolean,
    "service_tier": checks.string,
    "text": checks.mapping,
    "tools": _tools,
    "tool_choice": checks.simple,
    "top_logprobs": checks.integer(0, 20),
    "truncation": checks.string,
    "chat_template_kwargs": checks.template_arguments,
    "store": checks.boolean,
    "background": _foreground,
    "previous_response_id": _needs_store,
    "conversation": _needs_store,
    "prompt": _needs_store,
    "prompt_cache_key": checks.string,
    "safety_identifier": checks.string,
    "stream_options": checks.mapping,
}  # fmt: skip


class ResponsesProtocol:
    """Checks bodies against the limits of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        limits = limited_checks(settings)
        self._fields = _FIELDS | {"max_output_tokens": limits["max_tokens"], "temperature": limits["temperature"]}

    def responses(self, body: dict[str, Any]) -> Call:
        """A request for a response. Raises HttpError 400 or 404."""
        if body.get("input") is None:
            raise invalid("input is required", "input")
        checked = known_fields(body, self._fields, self._settings.served_name)
        for name in _WITHOUT_EFFECT:
            checked.pop(name, None)
        checked.setdefault("temperature", self._settings.default_temperature)
        checked.setdefault("max_output_tokens", self._settings.default_max_tokens)
        return Call.of("responses", checked)
