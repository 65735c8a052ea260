"""Short prompts rendered on the spot: vLLM's renderer takes four tasks and two trips to a thread for each of them.

A trip costs more than a short prompt does, and its thread waits for the interpreter's lock while the loop is busy.
What is made is the same: vLLM has each method for threads and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from vllm.renderers import ChatParams
from vllm.renderers.base import BaseRenderer
from vllm.tokenizers.hf import ThreadSafeHFTokenizerMixin

from qwen_server.config.patches import Patch, absent, changed_parameters

# Half a millisecond on the event loop, or one of text that the tokenizer takes apart byte by byte.
SHORT_CHARACTERS = 1024
_CHARACTERS_AROUND = 64  # an empty message or prompt is work, too
_TEMPLATE_ARGUMENTS = 16


def _missing() -> Iterator[str]:
    for render in (BaseRenderer.render_chat, BaseRenderer.render_chat_async):
        yield from changed_parameters(render, "self", "conversations", "chat_params", "tok_params")
    for render in (BaseRenderer.render_cmpl, BaseRenderer.render_cmpl_async):
        yield from changed_parameters(render, "self", "prompts", "tok_params")
    yield from absent(BaseRenderer, "mm_processor", "tokenizer")
    yield from absent(ChatParams, "chat_template_kwargs")


SPOT_RENDERER: Final = Patch(
    name="spot-renderer",
    gains="the first token of 16 short chats at a time after 7 ms instead of 19 (docs/decisions/0008)",
    relies_on="vLLM's BaseRenderer has each method twice, for threads and without; its class may be exchanged",
    missing=_missing,
)


class SpotRenderer(BaseRenderer[Any]):
    """What `render_on_the_spot` puts in front of a renderer's own class."""

    async def render_chat_async(
        self, conversations: Sequence[Any], chat_params: Any, tok_params: Any = None, **options: Any
    ) -> Any:
        """Conversations, and what the engine gets for each. Raises what vLLM raises for a prompt that it refuses."""
        size = sum(map(_characters, conversations))
        if size <= SHORT_CHARACTERS and _are_switches(chat_params.chat_template_kwargs):
            return self.render_chat(conversations, chat_params, tok_params, **options)
        return await super().render_chat_async(conversations, chat_params, tok_params, **options)

    async def render_cmpl_async(self, prompts: Sequence[Any], tok_params: Any = None, **options: Any) -> Any:
        """What the engine gets for each prompt."""
        if sum(map(_prompt_characters, prompts)) <= SHORT_CHARACTERS:
            return self.render_cmpl(prompts, tok_params, **options)
        return await super().render_cmpl_async(prompts, tok_params, **options)


def render_on_the_spot(renderer: Any) -> None:
    """Lets `renderer` do so, where its model takes only text and its tokenizer may be used by several threads.

    It stays of its class: parts of vLLM ask for that.
    """
    if renderer.mm_processor is None and isinstance(renderer.tokenizer, ThreadSafeHFTokenizerMixin):
        own = type(renderer)
        renderer.__class__ = type(f"Spot{own.__name__}", (SpotRenderer, own), {})


def _characters(conversation: Sequence[Any]) -> float:
    """What the template and the tokenizer get to do; infinite for all that is no plain text, such as a tool's call."""
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
    """Whether there is nothing among them that a template could take long to go through."""
    if len(template_arguments) > _TEMPLATE_ARGUMENTS:
        return False
    return all(value is None or isinstance(value, bool) for value in template_arguments.values())


def _prompt_characters(prompt: Any) -> float:
    """Of a parsed prompt; infinite for what is neither a text nor token ids."""
    if not isinstance(prompt, dict):
        return float("inf")
    for name in ("prompt_token_ids", "prompt"):
        if name in prompt:
            return len(prompt[name]) + _CHARACTERS_AROUND
    return float("inf")
