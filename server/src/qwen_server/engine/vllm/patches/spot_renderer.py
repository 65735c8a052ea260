"""Renders short prompts directly on the event loop, and long conversations in one thread.

vLLM's renderer uses four tasks and two handovers to a thread for each prompt. A handover costs more
than rendering a short prompt, and its thread waits for the GIL while the event loop is busy. The
result is the same, because vLLM has a synchronous variant of each method.

transformers takes longer to call the tokenizer and to look up the end-of-sequence token than the
tokenizer itself, so these renderers call the tokenizer directly, and look the token up once.

vLLM reads the messages of a conversation in the event loop. Thousands of them would hold up all
other requests, so they are read in the thread that renders them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from vllm.renderers import ChatParams, TokenizeParams
from vllm.renderers.base import BaseRenderer
from vllm.tokenizers.hf import ThreadSafeHFTokenizerMixin

from qwen_server.config.patches import Patch, absent, changed_parameters

# Takes half a millisecond on the event loop, or one if the tokenizer splits the text into bytes.
SHORT_CHARACTERS = 1024
_CHARACTERS_AROUND = 64  # the cost of an empty message or prompt
_TEMPLATE_ARGUMENTS = 16
# Shows whether the tokenizer gives the same tokens when it is called without transformers.
_SAMPLE = " Hello,  world!\n\t<|im_start|>user\n你好，１２３ e\u0301🙂<|im_end|></s>"
_MANY_PARTS = 256  # messages and parts, each of which takes 20 to 50 us


def _missing() -> Iterator[str]:
    for render in (BaseRenderer.render_chat, BaseRenderer.render_chat_async):
        yield from changed_parameters(render, "self", "conversations", "chat_params", "tok_params")
    for render in (BaseRenderer.render_cmpl, BaseRenderer.render_cmpl_async):
        yield from changed_parameters(render, "self", "prompts", "tok_params")
    yield from changed_parameters(BaseRenderer._tokenize_prompt, "self", "prompt", "params")  # noqa: SLF001
    yield from changed_parameters(BaseRenderer._build_tokens_prompt, "token_ids", "prompt")  # noqa: SLF001
    yield from changed_parameters(BaseRenderer._wants_offsets, "self", "prompt", "params")  # noqa: SLF001
    yield from absent(BaseRenderer, "_executor", "get_eos_token_id", "mm_processor", "tokenizer")
    yield from absent(TokenizeParams, "get_encode_kwargs")
    yield from absent(ChatParams, "chat_template_kwargs")


SPOT_RENDERER: Final = Patch(
    name="spot-renderer",
    gains="the first token after 7 ms instead of 19 with 16 short chats at a time (docs/decisions/0008)",
    relies_on="vLLM's BaseRenderer has each method with and without threads, and its class can be replaced",
    missing=_missing,
)


class SpotRenderer(BaseRenderer[Any]):
    """The class that `render_on_the_spot` adds to a renderer's own class.

    direct: the tokenizer below transformers; None if it does not give the same tokens.
    """

    direct: Any = None
    eos_token_id: int | None = None

    def get_eos_token_id(self) -> int | None:
        """The ID of the end-of-sequence token."""
        return self.eos_token_id

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        if self.direct is None or self._wants_offsets(prompt, params):
            return super()._tokenize_prompt(prompt, params)
        options = params.get_encode_kwargs()
        token_ids = self.direct.encode(prompt["prompt"], add_special_tokens=options["add_special_tokens"]).ids
        if options["truncation"] and len(token_ids) > options["max_length"]:
            return super()._tokenize_prompt(prompt, params)
        return self._build_tokens_prompt(token_ids, prompt)

    async def render_chat_async(
        self, conversations: Sequence[Any], chat_params: Any, tok_params: Any = None, **options: Any
    ) -> Any:
        """Renders conversations. Raises vLLM's exceptions for a prompt that it rejects."""
        size = sum(map(_characters, conversations))
        if size <= SHORT_CHARACTERS and _are_switches(chat_params.chat_template_kwargs):
            return self.render_chat(conversations, chat_params, tok_params, **options)
        if any(map(_has_many_parts, conversations)) and all(map(_is_text, conversations)):
            render = partial(copy_context().run, self.render_chat, conversations, chat_params, tok_params, **options)
            return await asyncio.get_running_loop().run_in_executor(self._executor, render)
        return await super().render_chat_async(conversations, chat_params, tok_params, **options)

    async def render_cmpl_async(self, prompts: Sequence[Any], tok_params: Any = None, **options: Any) -> Any:
        """Renders prompts."""
        if sum(map(_prompt_characters, prompts)) <= SHORT_CHARACTERS:
            return self.render_cmpl(prompts, tok_params, **options)
        return await super().render_cmpl_async(prompts, tok_params, **options)


def render_on_the_spot(renderer: Any) -> None:
    """Makes `renderer` render short prompts on the event loop.

    Does nothing if the model is multimodal or the tokenizer is not thread-safe. The new class is a
    subclass of the renderer's own, because parts of vLLM check for that.
    """
    if renderer.mm_processor is None and isinstance(renderer.tokenizer, ThreadSafeHFTokenizerMixin):
        own = type(renderer)
        eos_token_id = renderer.get_eos_token_id()
        renderer.direct = _direct(renderer.tokenizer)
        renderer.eos_token_id = eos_token_id
        renderer.__class__ = type(f"Spot{own.__name__}", (SpotRenderer, own), {})


def _direct(tokenizer: Any) -> Any:
    """The tokenizer below transformers, or None if calling it gives other tokens.

    It is used only for reading: `ThreadSafeHFTokenizerMixin` changes the settings of copies.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None or backend.truncation is not None or backend.padding is not None:
        return None
    for special in (False, True):
        expected = tokenizer(_SAMPLE, add_special_tokens=special)["input_ids"]
        if backend.encode(_SAMPLE, add_special_tokens=special).ids != expected:
            return None
    return backend


def _has_many_parts(conversation: Sequence[Any]) -> bool:
    """Whether reading the conversation takes long, which vLLM does in the event loop."""
    return len(conversation) + sum(len(_list_of(message)) for message in conversation) > _MANY_PARTS


def _is_text(conversation: Sequence[Any]) -> bool:
    """Whether no part of the messages is media, which vLLM fetches without blocking a thread."""
    return all(
        isinstance(part, dict) and part.get("type") == "text" for message in conversation for part in _list_of(message)
    )


def _list_of(message: Any) -> Sequence[Any]:
    """The parts of a message; none if it is plain text."""
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else ()


def _characters(conversation: Sequence[Any]) -> float:
    """The amount of text to render. Infinite if anything is not plain text, such as a tool call."""
    size = 0.0
    for message in conversation:
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return float("inf")
        role, content = message["role"], message["content"]
        if not (isinstance(role, str) and isinstance(content, str)):
            return float("inf")
        size += len(role) + len(content) + _CHARACTERS_AROUND
    return size


def _are_switches(template_arguments: Mapping[str, Any]) -> bool:
    """Whether all arguments are simple values that a template processes fast."""
    if len(template_arguments) > _TEMPLATE_ARGUMENTS:
        return False
    return all(value is None or isinstance(value, bool) for value in template_arguments.values())


def _prompt_characters(prompt: Any) -> float:
    """The length of a parsed prompt. Infinite if it is neither text nor token IDs."""
    if not isinstance(prompt, dict):
        return float("inf")
    for name in ("prompt_token_ids", "prompt"):
        if name in prompt:
            return len(prompt[name]) + _CHARACTERS_AROUND
    return float("inf")
