"""The built-in model with Qwen3's chat template and tokens for tools and thinking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration import builtin_model

_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# A request without a top_k of its own gets the most likely tokens.
_TOP_K = 1

# Without tools and thinking it renders what the built-in template renders, so that the model gives
# its usual answers.
_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nCall them within <tool_call></tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- set content = message.content if message.content is string else '' %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>\\n' }}{%- endif %}
{{- content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
{{- '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is not defined or enable_thinking %}{{- '<think>\\n' }}{%- endif %}
{%- endif %}
"""


def build(folder: Path) -> Path:
    """Writes the model to `folder`, which must not exist. Returns the folder."""
    builtin_model.copy(folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    _rename_the_last_tokens(tokenizer)
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    builtin_model.update_json(folder / "generation_config.json", top_k=_TOP_K)
    return folder


def _rename_the_last_tokens(tokenizer: dict[str, Any]) -> None:
    """Gives the ids of the rarest tokens to `_TOKENS`, so that the weights keep their shape."""
    model = tokenizer["model"]
    vocabulary: dict[str, int] = model["vocab"]
    rarest = sorted(vocabulary, key=vocabulary.__getitem__)[-len(_TOKENS) :]
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in rarest]
    template = tokenizer["added_tokens"][0] | {"special": False}
    for name, content in zip(rarest, _TOKENS, strict=True):
        index = vocabulary.pop(name)
        vocabulary[content] = index
        tokenizer["added_tokens"].append(template | {"id": index, "content": content})
