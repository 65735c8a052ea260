"""Tokenization over vLLM's own serving code, with the template and tokenizer of generation."""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
    TokenizeResponse,
)
from vllm.entrypoints.serve.tokenize.serving import ServingTokenization

from qwen_server.engine.base import InvalidRequestError, Kind
from qwen_server.engine.vllm.build import Parts
from qwen_server.engine.vllm.serving_objects import Api

_OPTIONS = (
    "online_renderer",
    "request_logger",
    "chat_template",
    "chat_template_content_format",
    "default_chat_template_kwargs",
)


_MOST_TOKENS = 1 << 18  # each takes a part of a microsecond of the event loop


def tokenization_apis(parts: Parts) -> dict[Kind, Api]:
    """Builds the serving object."""
    serving = ServingTokenization(parts.models, **{name: parts.serving_options[name] for name in _OPTIONS})
    vocabulary = len(parts.llm.get_tokenizer())

    def tokenize(body: dict[str, Any], _: str) -> TokenizeChatRequest | TokenizeCompletionRequest:
        model = TokenizeChatRequest if "messages" in body else TokenizeCompletionRequest
        return model.model_validate(body)

    def detokenize(body: dict[str, Any], _: str) -> DetokenizeRequest:
        largest = max(body["tokens"])
        if largest >= vocabulary:
            raise InvalidRequestError(f"tokens: {largest} is out of vocabulary ({vocabulary} tokens)", param="tokens")
        return DetokenizeRequest.model_validate(body)

    async def tokens_of(request: Any) -> Any:
        result = await serving.create_tokenize(request, None)
        if isinstance(result, TokenizeResponse) and result.count > _MOST_TOKENS:
            param = "messages" if isinstance(request, TokenizeChatRequest) else "prompt"
            text = f"{param} has {result.count} tokens; the limit of an answer is {_MOST_TOKENS}"
            raise InvalidRequestError(text, param=param)
        return result

    # vLLM's methods also take the HTTP request, but only for an ID in the log.
    return {
        "tokenize": Api("prompt", tokenize, tokens_of),
        "detokenize": Api("tokens", detokenize, lambda request: serving.create_detokenize(request, None)),
    }
