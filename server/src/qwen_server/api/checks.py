"""Checks of single parameters: each takes a name and a value and raises HttpError 400 that names the parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwen_server.http.error_bodies import invalid

Check = Callable[[str, Any], None]

_MAX_STOPS = 4
_MAX_STOP_LENGTH = 1024
_MAX_BIASES = 1024
_MAX_CHOICES = 4096
_MAX_MESSAGES = 4096
_MAX_VALUES = 1024
# What the engine itself gives to the template, which it does not take twice.
_TEMPLATE_OWN = ("conversation", "messages", "tools", "documents", "tokenizer", "model_config", "chat_template")


def integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(f"{name} must be an integer", name)
        if not low <= value <= high:
            raise invalid(f"{name} must be between {low} and {high}, not {_short(value)}", name)

    return check


def number(low: float, high: float, *, above: bool = False) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(f"{name} must be a number", name)
        if not low <= value <= high or (above and value == low):
            raise invalid(f"{name} must be {'above' if above else 'between'} {low:g} and {_upto(above, high)}", name)

    return check


def _upto(above: bool, high: float) -> str:
    return f"at most {high:g}" if above else f"{high:g}"


def boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false", name)


def string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string", name)


def mapping(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"{name} must be an object", name)


def array(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise invalid(f"{name} must be an array", name)


def few(limit: int) -> Check:
    """An array of at most `limit` entries."""

    def check(name: str, value: Any) -> None:
        array(name, value)
        if len(value) > limit:
            raise invalid(f"{name} has {len(value)} entries; the limit is {limit}", name)

    return check


def simple(place: str, value: Any) -> None:
    """Nothing that takes the models behind us long to refuse: they list everything that is wrong with it."""
    level = [value]
    count = 0
    while level:
        item = level.pop()
        if isinstance(item, dict | list):
            count += len(item)
            if count > _MAX_VALUES:
                raise invalid(f"{place} holds more than {_MAX_VALUES} values", place)
            level.extend(item.values() if isinstance(item, dict) else item)


def anything(name: str, value: Any) -> None:
    """Left to the engine."""


def stop(name: str, value: Any) -> None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid(f"{name} must be a string or an array of strings", name)
    if len(stops) > _MAX_STOPS:
        raise invalid(f"{name} has {len(stops)} entries; the limit is {_MAX_STOPS}", name)
    if any(not stop or len(stop) > _MAX_STOP_LENGTH for stop in stops):
        raise invalid(f"{name} must not hold empty strings, nor any of more than {_MAX_STOP_LENGTH} characters", name)


def stop_token_ids(name: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) > _MAX_BIASES or not (are_tokens(value) or not value):
        raise invalid(f"{name} must be an array of at most {_MAX_BIASES} token ids", name)


def logit_bias(name: str, value: Any) -> None:
    mapping(name, value)
    if len(value) > _MAX_BIASES:
        raise invalid(f"{name} has {len(value)} entries; the limit is {_MAX_BIASES}", name)
    for token, bias in value.items():
        if not (token.isdecimal() and token.isascii() and len(token) < 10):
            raise invalid(f"{name}: {_short(token)} is not a token id", name)
        number(-100, 100)(name, bias)


def stream_options(name: str, value: Any) -> None:
    mapping(name, value)
    for key in ("include_usage", "continuous_usage_stats"):
        if value.get(key) is not None:
            boolean(f"{name}.{key}", value[key])


def structured_outputs(name: str, value: Any) -> None:
    mapping(name, value)
    if value.get("choice") is not None:
        few(_MAX_CHOICES)(f"{name}.choice", value["choice"])


def messages(name: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise invalid("messages must be a non-empty array", name)
    if len(value) > _MAX_MESSAGES:
        raise invalid(f"messages has {len(value)} entries; the limit is {_MAX_MESSAGES}", name)
    for index, message in enumerate(value):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid(f"{place} must be an object", place)
        if not isinstance(message.get("role"), str):
            raise invalid(f"{place}.role must be a string", f"{place}.role")
        if message.get("name") is not None:
            string(f"{place}.name", message["name"])
        if message.get("tool_calls") is not None:
            _tool_calls(f"{place}.tool_calls", message["tool_calls"])
        content = message.get("content")
        if content is None and (message.get("tool_calls") or message["role"] in ("assistant", "tool", "function")):
            continue
        if isinstance(content, list):
            _parts(f"{place}.content", content)
        elif not isinstance(content, str):
            raise invalid(f"{place}.content must be a string or an array", f"{place}.content")


def _parts(place: str, parts: list[Any]) -> None:
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise invalid(f"{place} must hold objects with a type", place)
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise invalid(f"{place}: a part of type text must have a string text", place)


def _tool_calls(place: str, calls: Any) -> None:
    """The calls of an earlier answer, as the client sends them back."""
    array(place, calls)
    for index, call in enumerate(calls):
        function = _function(f"{place}[{index}]", call)
        string(f"{place}[{index}].function.arguments", function.get("arguments"))


def tools(name: str, value: Any) -> None:
    """Functions with names; their schemas are the engine's to judge."""
    array(name, value)
    if not 1 <= len(value) <= _MAX_VALUES:
        raise invalid(f"{name} must hold between 1 and {_MAX_VALUES} tools, not {len(value)}", name)
    for index, tool in enumerate(value):
        function = _function(f"{name}[{index}]", tool)
        if function.get("parameters") is not None:
            mapping(f"{name}[{index}].function.parameters", function["parameters"])


def _function(place: str, holder: Any) -> dict[str, Any]:
    """The `function` of a tool or a tool call, with a name."""
    mapping(place, holder)
    function: Any = holder.get("function")
    mapping(f"{place}.function", function)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{place}.function.name must be a string that is not empty", f"{place}.function.name")
    return dict(function)


def template_arguments(name: str, value: Any) -> None:
    """Arguments of the chat template; what the template makes of its own ones is the engine's to judge."""
    mapping(name, value)
    for key in _TEMPLATE_OWN:
        if key in value:
            raise invalid(f"{name} must not hold {key}, which the server gives to the template itself", name)
    if value.get("enable_thinking") is not None and not isinstance(value["enable_thinking"], bool):
        raise invalid(f"{name}.enable_thinking must be true or false", f"{name}.enable_thinking")


def blamed(param: str | None, body: Mapping[str, Any]) -> str | None:
    """The client's own name of what the engine refused: it calls every constraint of an answer `response_format`."""
    if param == "response_format" and param not in body:
        return next((name for name in ("structured_outputs", "tools") if name in body), param)
    if param is None and body.get("chat_template_kwargs"):
        return "chat_template_kwargs"
    return param


def are_tokens(values: list[Any]) -> bool:
    """Whether these are token ids, and at least one; fast, because there may be a million of them."""
    return set(map(type, values)) == {int} and min(values) >= 0 and max(values) < 1 << 31


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a larger number"
    return text if len(text) <= 40 else text[:40] + "..."
