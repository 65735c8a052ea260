"""Where the images of a request may come from, and the settings for them."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from qwen_server.engine.base import InvalidRequestError
from qwen_server.engine.vllm.images import (
    FORMATS,
    Images,
    limit_pixels,
    place_of_image,
    plain_image,
)
from tests.unit.qwen_server.serving import make_settings

DATA = "data:image/png;base64,AAAA"


def chat(*urls: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "x"}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    return {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": parts}]}


def refusal(images: Images, body: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequestError) as caught:
        images.check(body)
    return caught.value.param, caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://example.org/x.png",
        "https://sub.images.example.org/x.png",
        "https://images.example.org@evil.example/x.png",
        "file:///etc/passwd",
        "ftp://images.example.org/x.png",
        "http://[::1",
        "images.example.org/x.png",
        "",
    ],
)
def test_no_image_is_fetched_from_elsewhere(url: str) -> None:
    images = Images(read=True, domains=("images.example.org",))
    param, text = refusal(images, chat(DATA, url))
    assert param == "messages[1].content[2]"
    assert "fetched from images.example.org (--image-domains)" in text
    assert "fetched from nowhere" in refusal(Images(read=True), chat(url))[1]
    Images(read=False).check(chat(url))  # vLLM says that the model reads no images


def test_the_size_of_an_image_is_bounded() -> None:
    images = Images(read=True, pixels=1000)
    images.check(chat(DATA) | {"mm_processor_kwargs": {"min_pixels": 1000, "max_pixels": None}})
    param, text = refusal(images, chat(DATA) | {"mm_processor_kwargs": {"max_pixels": 1001}})
    assert param == "mm_processor_kwargs.max_pixels"
    assert "must be at most 1000 (--max-image-pixels)" in text
    param, text = refusal(Images(read=False), {"messages": []} | {"mm_processor_kwargs": {"max_pixels": 1}})
    assert (param, "this one does not" in text) == ("mm_processor_kwargs.max_pixels", True)


def test_images_of_the_other_apis_are_looked_at() -> None:
    images = Images(read=True)
    item = {"role": "user", "content": [{"type": "input_image", "image_url": "http://a/x"}]}
    assert refusal(images, {"input": [item]})[0] == "input[0].content[0]"
    part = {"type": "image", "source": {"type": "url", "url": "http://a/x"}}
    nested = {"type": "tool_result", "content": [part]}
    assert refusal(images, {"messages": [{"content": [nested]}]})[0] == "messages[0].content[0].content[0]"


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("name", ["invoice-1", "", 5, []])
def test_an_image_has_no_name_by_which_others_could_ask_for_it(name: Any, read: bool) -> None:
    for part in ({"image_url": {"url": DATA}}, {"image_url": None}):
        messages = [{"role": "user", "content": [{"type": "image_url", **part, "uuid": name}]}]
        param, text = refusal(Images(read=read), {"messages": messages})
        assert param == "messages[0].content[0].uuid"
        assert "must be sent" in text
    Images(read=read).check({"messages": [{"content": [{"type": "text", "text": "x", "uuid": None}]}]})


@pytest.mark.parametrize("url", [DATA, "DATA:image/png;base64,AAAA", "https://images.example.org:8443/x.png?y=1"])
def test_the_others_pass(url: str) -> None:
    Images(read=True, domains=("images.example.org",)).check(chat(url))


@pytest.mark.parametrize("head", ["DATA:image/png;base64", "data:image/png;BASE64", "Data:Image/PNG;x=Y;Base64"])
def test_the_head_of_a_data_url_may_be_in_capitals(head: str) -> None:
    images, plain = Images(read=True), head.lower()
    body = chat(DATA, f"{head},AAaa") | {"seed": 1}
    images.check(body)
    assert images.readable(body) == chat(DATA, f"{plain},AAaa") | {"seed": 1}
    assert body == chat(DATA, f"{head},AAaa") | {"seed": 1}
    part = {"type": "input_image", "detail": "HIGH", "image_url": f"{head},AAaa"}
    read = images.readable({"input": [{"type": "function_call_output", "output": [part]}, {"content": head}]})
    items = [{"type": "function_call_output", "output": [part | {"image_url": f"{plain},AAaa"}]}, {"content": head}]
    assert read == {"input": items}
    block = {"type": "image", "source": {"type": "url", "url": f"{head},AAaa"}}
    read = images.readable({"messages": [{"content": [{"type": "tool_result", "content": [block]}]}]})
    assert read["messages"][0]["content"][0]["content"][0]["source"]["url"] == f"{plain},AAaa"


@pytest.mark.parametrize("url", [DATA, "https://A.example/x.PNG", "data:", "dataA", ""])
def test_other_urls_stay_as_they_are(url: str) -> None:
    body = chat(url)
    assert Images(read=True).readable(body) is body
    assert Images(read=False).readable(chat("DATA:,")) == chat("DATA:,")


@pytest.mark.parametrize(
    ("part", "name", "text"),
    [
        ({"type": "image_url", "image_url": DATA}, ".image_url", " must be an object with the URL of the image: "),
        ({"type": "image_url"}, ".image_url", " must be an object"),
        ({"type": "image_url", "image_url": None}, ".image_url", ' {"url": "data:image/png;base64,..."}'),
        ({"type": "image_url", "image_url": {}}, ".image_url.url", " must be a string"),
        ({"type": "image_url", "image_url": {"url": 5}}, ".image_url.url", " must be a string with the URL"),
        ({"type": "input_image", "image_url": DATA}, ".type", ": an image in a chat has the type image_url; "),
        ({"type": "input_image", "image_url": DATA, "detail": "x"}, ".type", "input_image is for /v1/responses"),
    ],
)
def test_an_image_of_a_chat_is_told_what_it_must_be(part: dict[str, Any], name: str, text: str) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]}
    param, told = refusal(Images(read=True), body)
    assert param == f"messages[0].content[1]{name}"
    assert told.startswith(param)
    assert text in told
    images = Images(read=False)
    assert refusal(images, body) == ("messages[0].content[1]", "messages[0].content[1]: this model reads no images")
    with pytest.raises(InvalidRequestError):
        images.check(body, "tokenize")
    images.check(body, "messages")  # whose images have another form, which vLLM checks


def test_an_input_image_that_vllm_reads_in_a_chat_passes() -> None:
    part = {"type": "input_image", "image_url": DATA, "detail": "auto"}
    Images(read=True).check({"messages": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data:image/png,AAAA", "the data URL of an image begins like data:image/png;base64,"),
        ("data:image/png;base64", "the data URL of an image begins like data:image/png;base64,"),
        ("http://localhost:99999/x", "the port in the URL of the image is not a number up to 65535"),
        ("http://localhost:port/x", "the port in the URL of the image is not a number up to 65535"),
    ],
)
def test_a_url_that_cannot_be_read_is_told_with_its_place(url: str, text: str) -> None:
    param, told = refusal(Images(read=True, domains=("localhost",)), chat(DATA, url))
    assert (param, told) == ("messages[1].content[2]", f"messages[1].content[2]: {text}")


def test_an_image_is_found_by_its_url() -> None:
    url = "https://a.example/x.png"
    assert place_of_image(url, chat(DATA, url, url)) == "messages[1].content[2]"
    assert place_of_image("data:image/png;base64,AAaa", chat(DATA, "DATA:IMAGE/PNG;BASE64,AAaa")) == (
        "messages[1].content[2]"
    )
    item = {"type": "function_call_output", "output": [{"type": "input_image", "image_url": url}]}
    assert place_of_image(url, {"input": [item]}) == "input[0].output[0]"
    blocks = [{"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": data}} for data in "xy"]
    nested = {"messages": [{"content": [{"type": "tool_result", "content": blocks}]}]}
    assert place_of_image("data:image/gif;base64,y", nested) == "messages[0].content[0].content[1]"
    assert place_of_image(url, chat(DATA)) is None
    assert place_of_image(url, {"prompt": url}) is None


def test_the_servers_own_image_can_be_read() -> None:
    head, _, data = plain_image(56, 28).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    assert (head, image.size) == ("data:image/png;base64", (56, 28))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_tells_how_many_pixels_there_are_before_it_decodes_them(name: str) -> None:
    """That of an icon does not: it decodes the picture in it when it is opened."""
    file = io.BytesIO()
    Image.new("L", (64, 32)).save(file, name)
    image: Any = Image.open(file, formats=FORMATS)
    assert (image.size, image._im) == ((64, 32), None)
    icon = io.BytesIO()
    Image.new("RGBA", (64, 64)).save(icon, "ICO")
    opened: Any = Image.open(icon)
    assert opened._im is not None
    with pytest.raises(UnidentifiedImageError):
        Image.open(icon, formats=FORMATS)


def test_a_size_that_is_null_is_the_default() -> None:
    body = chat(DATA) | {"mm_processor_kwargs": {"min_pixels": None, "max_pixels": 5}}
    assert Images(read=True).readable(body) == chat(DATA) | {"mm_processor_kwargs": {"max_pixels": 5}}
    assert body["mm_processor_kwargs"] == {"min_pixels": None, "max_pixels": 5}


@pytest.mark.parametrize(
    ("part", "name", "text"),
    [
        ({"file_id": "file-1"}, "file_id", "is not supported, because no files are stored"),
        ({"file_id": "file-1", "image_url": None}, "file_id", "is not supported"),
        ({"detail": "auto"}, "image_url", "is required"),
        ({"image_url": None}, "image_url", "is required"),
    ],
)
def test_an_item_without_an_image_is_told_what_there_can_be(part: dict[str, Any], name: str, text: str) -> None:
    item = {"role": "user", "content": [{"type": "input_image", **part}]}
    param, told = refusal(Images(read=True), {"input": [item]})
    assert param == f"input[0].content[0].{name}"
    assert told.startswith(f"{param} {text}")
    assert told.endswith(": send image_url with a data URL, as no URL is fetched (--image-domains)")
    told = refusal(Images(read=True, domains=("a.example", "b.example")), {"input": [item]})[1]
    assert "with a data URL, or with a URL of a.example, b.example (--image-domains)" in told
    Images(read=False).check({"input": [item]})  # vLLM says that the model reads no images


def test_a_limit_above_that_of_pillow_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    limit_pixels(50)
    assert Image.MAX_IMAGE_PIXELS == 100
    limit_pixels(64 * 32)
    file = io.BytesIO(base64.b64decode(plain_image(64, 32).partition(",")[2]))
    assert Image.open(file).size == (64, 32)


def test_domains_are_names_of_hosts() -> None:
    settings = make_settings(image_domains="Images.example.org, 10.0.0.1")
    assert settings.image_domains == ("images.example.org", "10.0.0.1")
    assert make_settings().image_domains == ()
    for wrong in ("https://a.example", "*", "a.example/x", "*.example.org"):
        with pytest.raises(ValidationError, match="is not the name of a host"):
            make_settings(image_domains=wrong)
