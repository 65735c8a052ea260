"""What the client programs ask, and what the test model answers."""

from __future__ import annotations

from typing import Any

from tests.integration.builtin_model import ANSWER, NAME, QUESTION

__all__ = ["ANSWER", "CALL", "CITY", "LABEL", "LONG", "NAME", "PROMPT", "QUESTION", "TOOL", "forced"]

PROMPT = "请分类：苹果发布新款iPhone\n类别："  # continued by LABEL
LABEL = "科技"
# Several seconds of work for the engine.
LONG: dict[str, Any] = {"max_tokens": 512, "ignore_eos": True}
CITY = {"city": "北京"}
# The model cannot call tools by itself: a grammar makes it write what a capable model would.
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>'
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def forced(text: str) -> dict[str, Any]:
    """Fields of a request that the model answers with exactly this text."""
    return {"structured_outputs": {"choice": [text]}}
