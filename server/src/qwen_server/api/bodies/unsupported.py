"""Fields of OpenAI's, Anthropic's and vLLM's APIs that this server does not have.

A field that asks for another result is refused by name, because an answer without it would be
wrong. A field that only concerns the other service is ignored. A test compares both lists with
vLLM's models and with the SDKs, so that a new field of theirs needs a decision here. All other
fields are unknown: they are ignored and logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen_server.engine.base import Kind
from qwen_server.http.error_bodies import HttpError, invalid

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a field is refused.

    harmless: the values that ask for nothing. They are ignored, as `null` is.
    """

    text: str
    harmless: tuple[Any, ...] = ()

    def lets_pass(self, value: Any) -> bool:
        """Whether `value` asks for nothing. To Python, 1 is True, so the types count too."""
        return any(type(value) is type(other) and value == other for other in self.harmless)


def _no(why: str, *harmless: Any) -> Refused:
    return Refused(f"is not supported: {why}", harmless)


_BEAMS = "this server has no beam search"
_INTERNAL = "it is meant for other parts of a vLLM deployment"
_TEMPLATE = "the template is the model's own, or the server's (--chat-template); chats have chat_template_kwargs"
_MEDIA = "requests cannot change how media are processed"
_STORED = "it needs stored messages, and this server stores none"
_GUIDED = Refused("was removed; use structured_outputs or response_format")
_ACTIVATION = Refused("was removed; use use_activation", (True,))

REFUSED: Final[Mapping[str, Refused]] = {
    # Of vLLM.
    "use_beam_search": _no(_BEAMS, False),
    "length_penalty": _no(_BEAMS, 1, 1.0),
    "early_stopping": _no(_BEAMS, False),
    "best_of": _no("this server does not choose among answers; use n", 1),
    "logits_processors": _no("vLLM no longer has it", []),
    # In vLLM's engine, it replaces the log probabilities of all requests of the same step.
    "logprob_token_ids": _no("use top_logprobs or allowed_token_ids", []),
    "watermarking": _no("requests cannot change the engine's watermark"),
    "thinking_token_budget": _no("only chats have it", -1),
    "routed_experts_prompt_start": _no("the server does not return routed experts", 0),
    "return_weight_versions": _no("the weights do not change while the server runs", False),
    "kv_transfer_params": _no(_INTERNAL, {}),
    "ec_transfer_params": _no(_INTERNAL, {}),
    "vllm_xargs": _no(_INTERNAL, {}),
    "chat_template": _no(_TEMPLATE),
    "mm_processor_kwargs": _no("only chats have it", {}),
    "media_io_kwargs": _no(_MEDIA, {}),
    "prompt_embeds": _no("use prompt", []),
    "embed_dtype": _no("embeddings are float32 numbers", "float32"),
    "endianness": _no("the bytes of embeddings have the order of the server's CPU", "native", "little"),
    "task": _no("the server's --task decides what the model does"),
    "padding": _no("texts are not padded", "do_not_pad"),
    "previous_input_messages": _no("send the conversation as input", []),
    "enable_response_messages": _no("use /tokenize to see the prompt of a conversation", False),
    "normalize": _ACTIVATION,
    "softmax": _ACTIVATION,
    "activation": _ACTIVATION,
    "guided_json": _GUIDED,
    "guided_regex": _GUIDED,
    "guided_choice": _GUIDED,
    "guided_grammar": _GUIDED,
    "guided_decoding_backend": _GUIDED,
    "guided_whitespace_pattern": _GUIDED,
    # Of OpenAI.
    "audio": _no("the models generate text only"),
    "modalities": _no("the models generate text only", [], ["text"]),
    "image": _no("the models generate text only", {}),
    "functions": _no("use tools", []),
    "function_call": _no("use tool_choice", "none", "auto"),
    "web_search_options": _no("the server does not search the web"),
    "moderation": _no("the server has no moderation"),
    # Of Anthropic.
    "container": _no("the server runs no code"),
    "mcp_servers": _no("the server calls no other servers; use tools", []),
    "output_format": _no("use output_config.format"),
    "compaction": _no("the server does not summarize conversations"),
    "thread": _no(_STORED),
}

IGNORED: Final = frozenset(
    {
        # Of vLLM: IDs, the size of the events, and options of other paths.
        *("request_id", "session_id", "stream_interval"),
        *("return_token_offsets", "mm_payload", "return_mm_kwargs"),
        # Of OpenAI: its accounts, caches and processing, and hints that only its models know.
        *("user", "metadata", "store", "service_tier", "safety_identifier", "access_programs"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("prediction", "verbosity", "background_options", "context_management"),
        # Of Anthropic: the same.
        *("betas", "billing_policy", "cache_control", "diagnostics", "fallback_credit_token", "fallbacks"),
        *("inference_geo", "speed", "user_profile_id", "workspace_id"),
    }
)

# Refused elsewhere.
_IGNORED_BY: Final[frozenset[tuple[Kind, str]]] = frozenset({("count_tokens", "compaction")})

# What one API calls otherwise than another.
_USE: Final[Mapping[Kind, Mapping[str, str]]] = {
    "chat": {
        "input": "messages",
        "instructions": "messages",
        "max_output_tokens": "max_completion_tokens",
        "output_config": "response_format",
        "prompt": "messages",
        "stop_sequences": "stop",
        "system": "messages",
        "text": "response_format",
    },
    "completion": {
        "input": "prompt",
        "max_completion_tokens": "max_tokens",
        "max_output_tokens": "max_tokens",
        "messages": "prompt",
        "stop_sequences": "stop",
        "top_logprobs": "logprobs",
    },
    "responses": {
        "logprobs": "top_logprobs",
        "max_completion_tokens": "max_output_tokens",
        "max_tokens": "max_output_tokens",
        "messages": "input",
        "output_config": "text",
        "reasoning_effort": "reasoning",
        "response_format": "text",
        "stop_sequences": "stop",
        "system": "instructions",
    },
    "messages": {
        "input": "messages",
        "instructions": "system",
        "max_completion_tokens": "max_tokens",
        "max_output_tokens": "max_tokens",
        "reasoning_effort": "output_config",
        "response_format": "output_config",
        "stop": "stop_sequences",
        "text": "output_config",
    },
    "embeddings": {"documents": "input", "messages": "input", "prompt": "input"},
    "pooling": {"documents": "input", "messages": "input", "prompt": "input"},
    "classify": {"documents": "input", "messages": "input", "prompt": "input"},
    "rerank": {"input": "documents", "queries": "query", "text_1": "query", "text_2": "documents"},
    "score": {"input": "documents", "query": "queries"},
}
# Fields of one API that other servers also accept in the others, or that mean nothing there.
_TOLERATED: Final = frozenset(
    {
        *("reasoning", "thinking", "include", "truncation", "max_tool_calls", "parallel_tool_calls"),
        *("stream_options", "chat_template_kwargs", "add_special_tokens"),
    }
)
# The values with which a field asks for nothing, where these are not false, 0 or empty.
_DEFAULTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "encoding_format": ("float",),
    "include_reasoning": (True,),
    "n": (1,),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1, 1.0),
    "seed": (),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "thinking_token_budget": (-1,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}


def fields_of_others(own: frozenset[str], all_names: Iterable[frozenset[str]]) -> frozenset[str]:
    """The fields that only the other APIs of this server have. They would change the result."""
    return frozenset().union(*all_names) - own - _TOLERATED - IGNORED


def check_unknown(kind: Kind, given: Mapping[str, Any], known: frozenset[str], elsewhere: frozenset[str]) -> None:
    """Looks at the fields that a body of `kind` does not have. Raises HttpError 400."""
    unknown = []
    for name, value in given.items():
        if name in known or name in IGNORED or value is None or (kind, name) in _IGNORED_BY:
            continue
        if name in REFUSED:
            if not REFUSED[name].lets_pass(value):
                raise invalid(f"{name} {REFUSED[name].text}", name)
        elif name in elsewhere and _asks(name, value):
            raise _misplaced(kind, name)
        else:
            unknown.append(name)
    if unknown:
        names = ", ".join(sorted(name[:64] for name in unknown[:8]))
        _log.info("ignored %d unknown field(s) of a request: %r", len(unknown), names)


def _asks(name: str, value: Any) -> bool:
    if name not in _DEFAULTS:
        return bool(value)
    return not Refused("", _DEFAULTS[name]).lets_pass(value)


def _misplaced(kind: Kind, name: str) -> HttpError:
    other = _USE.get(kind, {}).get(name)
    hint = "it belongs to another path of this server" if other is None else f"this path calls it {other}"
    return invalid(f"{name} is not supported: {hint}", name)
