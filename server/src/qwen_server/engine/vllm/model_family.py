"""Detects from the chat template which of vLLM's parsers a model's answers need."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Family:
    """The names of vLLM's parsers (None for none) and the chat template's default arguments.

    always_thinks: each answer begins with reasoning, so every chat needs the reasoning parser.
    """

    tool_parser: str | None = None
    reasoning_parser: str | None = None
    template_defaults: dict[str, Any] = field(default_factory=dict)
    always_thinks: bool = False


def detect(template: str | None, generation_prompt: str) -> Family:
    """Detects the family of a model.

    Qwen3 thinks unless the template's arguments disable it. Its Thinking editions begin the
    reasoning in the prompt, and it cannot be disabled.

    Args:
        template: the source of the chat template.
        generation_prompt: a rendered prompt, including the text that asks for the answer.
    """
    if not template:
        return Family()
    template = _COMMENT.sub("", template)  # a comment may name a switch that the template lacks
    tools: str | None = None
    if "<tool_call>" in template:
        tools = "qwen3_xml" if "<function=" in template else "hermes"
    if "enable_thinking" in template:
        return Family(tools, "qwen3", {"enable_thinking": False})
    if generation_prompt.rstrip().endswith("<think>"):
        return Family(tools, "qwen3", {}, always_thinks=True)
    return Family(tools)


def choose(configured: str, detected: str | None) -> str | None:
    """The parser for a setting: `auto`, `none` or a name."""
    if configured == "auto":
        return detected
    return None if configured == "none" else configured
