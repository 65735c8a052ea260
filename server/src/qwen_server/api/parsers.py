"""Which check a body of each kind goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwen_server.api.protocol import Call, Protocol
from qwen_server.api.protocol_messages import MessagesProtocol
from qwen_server.api.protocol_responses import ResponsesProtocol
from qwen_server.api.protocol_tokenize import TokenizeProtocol
from qwen_server.config.settings import Settings
from qwen_server.engine.base import Kind

Parser = Callable[[dict[str, Any]], Call]


def parsers_of(settings: Settings, protocol: Protocol) -> Mapping[Kind, Parser]:
    """Each raises HttpError 400 or 404."""
    messages = MessagesProtocol(settings)
    tokenization = TokenizeProtocol(settings)
    return {
        "chat": protocol.chat,
        "completion": protocol.completion,
        "responses": ResponsesProtocol(settings).responses,
        "messages": messages.messages,
        "count_tokens": messages.count_tokens,
        "tokenize": tokenization.tokenize,
        "detokenize": tokenization.detokenize,
    }
