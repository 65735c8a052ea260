"""A tiny random Qwen2.5-VL with the tokenizer of the built-in model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.integration.builtin_model import FOLDER, update_json

_TOKENS: Final = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_FIRST: Final = 16000
_TEMPLATE: Final = """\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}
{%- if part.type == 'text' %}{{- part.text }}{%- else %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- endif %}
{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
_ROPE: Final = {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [4, 6, 6]}
_SIZES: Final[dict[str, Any]] = {"hidden_size": 64, "intermediate_size": 128}
_TEXT: Final = _SIZES | {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": _FIRST + 8,
    "max_position_embeddings": 4096,
    "rope_parameters": _ROPE,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION: Final = _SIZES | {
    "depth": 2,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
    "fullatt_block_indexes": [1],
}
_PROCESSOR: Final = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 200704,
}


def random_qwen_vl(folder: Path) -> Path:
    """Writes the model to `folder`, which must not exist."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FOLDER / name, folder / name)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": _FIRST + place, "content": token, **flags} for place, token in enumerate(_TOKENS)]
    update_json(folder / "tokenizer.json", added_tokens=tokenizer["added_tokens"] + added)
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR), encoding="utf-8")
    ids = dict(zip(("vision_start", "vision_end", "image", "video"), range(_FIRST, _FIRST + 4), strict=True))
    named = {f"{name}_token_id": number for name, number in ids.items()}
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config=_TEXT, vision_config=_VISION, **named)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return folder
