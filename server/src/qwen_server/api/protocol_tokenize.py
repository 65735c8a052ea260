"""What a request for tokenization may ask for: vLLM's own two paths."""

from __future__ import annotations

from typing import Any

from qwen_server.api import checks
from qwen_server.api.checks import Check
from qwen_server.api.protocol import Call, known_fields
from qwen_server.config.settings import Settings
from qwen_server.http.error_bodies import invalid

_MAX_TOKENS = 1 << 18  # more than fit any model's context


def _tokens(name: str, value: Any) -> None:
    if isinstance(value, list) and len(value) > _MAX_TOKENS:
        raise invalid(f"{name} has {len(value)} entries; the limit is {_MAX_TOKENS}", name)
    if not isinstance(value, list) or not checks.are_tokens(value):
        raise invalid(f"{name} must be a non-empty array of token ids", name)


_PROMPT: dict[str, Check] = {
    "model": checks.string,
    "prompt": checks.string,
    "add_special_tokens": checks.boolean,
    "return_token_strs": checks.boolean,
}
_CHAT: dict[str, Check] = {
    "model": checks.string,
    "messages": checks.messages,
    "add_special_tokens": checks.boolean,
    "return_token_strs": checks.boolean,
    "add_generation_prompt": checks.boolean,
    "continue_final_message": checks.boolean,
    "chat_template_kwargs": checks.template_arguments,
    "tools": checks.few(1024),
}
_DETOKENIZE: dict[str, Check] = {"model": checks.string, "tokens": _tokens}


class TokenizeProtocol:
    """Checks bodies; there is nothing to limit but their size."""

    def __init__(self, settings: Settings) -> None:
        self._served_name = settings.served_name

    def tokenize(self, body: dict[str, Any]) -> Call:
        """A text or a conversation. Raises HttpError 400 or 404."""
        chat = body.get("messages") is not None
        if chat == (body.get("prompt") is not None):
            raise invalid("either prompt or messages is required, not both", "prompt")
        return Call.of("tokenize", known_fields(body, _CHAT if chat else _PROMPT, self._served_name))

    def detokenize(self, body: dict[str, Any]) -> Call:
        """Token ids. Raises HttpError 400 or 404."""
        if body.get("tokens") is None:
            raise invalid("tokens is required", "tokens")
        return Call.of("detokenize", known_fields(body, _DETOKENIZE, self._served_name))
