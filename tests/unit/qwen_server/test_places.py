"""Where in a body an error of the engine is."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_server.engine.vllm.places import culprit, part_at, place_of

TEXT = {"type": "text", "text": "x"}
IMAGE = {"type": "image", "source": {"type": "base64", "data": ""}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": [TEXT, IMAGE]}
NO_MEDIA = "qwen is not a multimodal model"


@pytest.mark.parametrize(
    ("location", "place"),
    [
        (("seed",), "seed"),
        (("messages", 1, "content", "list[AnthropicContentBlock]", 0, "type"), "messages[1].content[0].type"),
        (("messages", 1, "content", "str"), "messages[1].content"),
        (("response_format", "json_schema", "json_schema", "name"), "response_format.json_schema.name"),
        (("bad_words", 0), "bad_words[0]"),
        (("bad_words", "list[str]", 7), "bad_words"),
        (("stream_options", "StreamOptions", "include_usage"), "stream_options.include_usage"),
        ((0, "function"), None),
        (("unheard_of",), None),
        ((), None),
    ],
)
def test_the_place_holds_only_what_the_body_has(location: tuple[int | str, ...], place: str | None) -> None:
    body = {
        "seed": 1,
        "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "x"}]}],
        "response_format": {"type": "json_schema", "json_schema": {}},
        "bad_words": [5],
        "stream_options": {},
    }
    assert place_of(location, body) == place


@pytest.mark.parametrize(
    ("message", "prompt", "place"),
    [
        (NO_MEDIA, [{"content": "x"}, {"content": [TEXT, {"type": "image_url"}]}], "p[1].content[1]"),
        (NO_MEDIA, [{"content": [TEXT, RESULT]}], "p[0].content[1].content[1]"),
        (NO_MEDIA, [{"type": "function_call_output", "output": [{"type": "input_image"}]}], "p[0].output[0]"),
        (NO_MEDIA, [{"content": [IMAGE, IMAGE]}], "p[0].content[0]"),
        ("At most 1 image(s) may be provided", [{"content": [IMAGE, IMAGE]}], "p"),
        ("cannot identify image file", [{"content": [TEXT, IMAGE]}], "p[0].content[1]"),
        (NO_MEDIA, "a text", "p"),
        (
            "Unsupported chat content part type: 'file'. Supported types: audio_url, image_url, text.",
            [{"content": [{"type": "file"}]}],
            "p[0].content[0].type",
        ),
        ("Unsupported input item type: item_reference", [{"role": "user"}, {"type": "item_reference"}], "p[1].type"),
        (
            "Encrypted content is not supported.",
            [{"encrypted_content": None}, {"encrypted_content": "x"}],
            "p[1].encrypted_content",
        ),
        ("Something else", [{"content": [IMAGE]}], "p"),
    ],
)
def test_the_part_that_the_model_cannot_read_is_found(message: str, prompt: Any, place: str) -> None:
    assert culprit(message, prompt, "p") == place


def test_a_part_of_an_unknown_message_is_the_first_that_is_not_text() -> None:
    prompt = [{"content": "x"}, {"content": [TEXT, TEXT]}, {"content": [TEXT, IMAGE]}, {"content": [IMAGE, IMAGE]}]
    assert part_at(1, prompt, "p") == "p[2].content[1]"
    assert part_at(0, prompt, "p") == "p[3].content[0]"
    assert part_at(2, prompt, "p") is None
    assert part_at(0, "a text", "p") is None
