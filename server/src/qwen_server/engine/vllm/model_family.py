"""Which of vLLM's parsers a model's answers need, read from its chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Family:
    """Names of vLLM's parsers (None for none) and the chat template's default arguments.

    `always_thinks`: each answer begins with a thought, so that every chat needs the reasoning parser.
    """

    tool_parser: str | None = None
    reasoning_parser: str | None = None
    template_defaults: dict[str, Any] = field(default_factory=dict)
    always_thinks: bool = False


def detect(template: str | None, generation_prompt: str) -> Family:
    """The family of a model.

    `template` is the chat template's source; `generation_prompt` the text that it ends a prompt with when the answer
    is due. Qwen3 thinks unless told not to; its Thinking editions open the thought in the prompt and cannot be told.
    """
    if not template:
        return Family()
    template = _COMMENT.sub("", template)  # a comment that names a switch is no switch
    tools: str | None = None
    if "<tool_call>" in template:
        tools = "qwen3_xml" if "<function=" in template else "hermes"
    if "enable_thinking" in template:
        return Family(tools, "qwen3", {"enable_thinking": False})
    if generation_prompt.rstrip().endswith("<think>"):
        return Family(tools, "qwen3", {}, always_thinks=True)
    return Family(tools)


def choose(configured: str, detected: str | None) -> str | None:
    """The parser of a setting: auto, none or a name."""
    if configured == "auto":
        return detected
    return None if configured == "none" else configured
