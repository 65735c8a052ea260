"""What a request of Anthropic's Messages API may ask for."""

from __future__ import annotations

from typing import Any

from qwen_server.api import checks
from qwen_server.api.checks import Check
from qwen_server.api.protocol import SAMPLING, Call, known_fields, limited_checks
from qwen_server.config.settings import Settings
from qwen_server.http.error_bodies import invalid


def _stop_sequences(name: str, value: Any) -> None:
    checks.array(name, value)
    checks.stop(name, value)


def _system(name: str, value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not all(isinstance(block, dict) for block in value):
        raise invalid(f"{name} must be a string or an array of objects", name)
    checks.simple(name, value)


def _messages(name: str, value: Any) -> None:
    checks.messages(name, value)
    for index, message in enumerate(value):
        checks.simple(f"{name}[{index}]", message)


_PROMPT: dict[str, Check] = {
    "model": checks.string,
    "messages": _messages,
    "system": _system,
    "tools": checks.few(1024),
    "tool_choice": checks.mapping,
    "thinking": checks.mapping,
    "output_config": checks.mapping,
    "chat_template_kwargs": checks.template_arguments,
}
_MESSAGES: dict[str, Check] = _PROMPT | {
    "stop_sequences": _stop_sequences,
    "stream": checks.boolean,
    "top_k": SAMPLING["top_k"],
    "top_p": SAMPLING["top_p"],
    "cache_salt": checks.string,
    "metadata": checks.mapping,
    "service_tier": checks.string,
}
_WITHOUT_EFFECT = ("metadata", "service_tier")


class MessagesProtocol:
    """Checks bodies against the limits of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        limits = limited_checks(settings)
        self._messages = _MESSAGES | {name: limits[name] for name in ("max_tokens", "temperature")}

    def messages(self, body: dict[str, Any]) -> Call:
        """A request for a message; Anthropic's API has no default for `max_tokens`. Raises HttpError 400 or 404."""
        _require(body, "messages", "max_tokens")
        checked = known_fields(body, self._messages, self._settings.served_name)
        for name in _WITHOUT_EFFECT:
            checked.pop(name, None)
        checked.setdefault("temperature", self._settings.default_temperature)
        return Call.of("messages", checked)

    def count_tokens(self, body: dict[str, Any]) -> Call:
        """A request for the number of tokens of a prompt. Raises HttpError 400 or 404."""
        _require(body, "messages")
        return Call.of("count_tokens", known_fields(body, _PROMPT, self._settings.served_name))


def _require(body: dict[str, Any], *names: str) -> None:
    for name in names:
        if body.get(name) is None:
            raise invalid(f"{name} is required", name)
