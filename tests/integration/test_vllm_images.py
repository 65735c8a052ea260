"""Images in chats, on a server with a tiny Qwen2.5-VL."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.cluster.settings import ROOT
from tests.integration.image_host import ImageHost, image_host
from tests.integration.image_model import random_qwen_vl
from tests.integration.server_process import ServerProcess, ready_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420, func_only=True)]

PATH = "/v1/chat/completions"
DEFAULT_PIXELS = 640 * 640


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("vl")
    model = random_qwen_vl(folder / "model")
    limits = ("--max-images=2", "--max-image-pixels=1000000", "--image-domains=localhost", "--max-model-len=1024")
    engine = ("--max-num-seqs=8", f'--mm-processor-kwargs={{"max_pixels": {DEFAULT_PIXELS}}}')
    flags = (f"--model={model}", "--dtype=float32", "--kv-cache-gib=0.1", *limits, "--", *engine)
    with ready_server(folder, *flags) as process:
        yield process


@pytest.fixture(scope="module")
def host() -> Iterator[ImageHost]:
    """A host with a small picture, one of two million pixels, one in a file of 5 MiB, and more."""
    with image_host() as host:
        small, wide = (base64.b64decode(url.partition(",")[2]) for url in (picture(), picture(2000, 1000)))
        large = small + b"x" * (5 << 20)
        host.answers |= {"/small": (200, {}, small), "/wide": (200, {}, wide), "/page": (200, {}, b"<html>")}
        host.answers |= {"/large": (200, {"Content-Length": str(len(large))}, large), "/endless": (200, {}, large)}
        host.answers["/moved"] = (302, {"Location": host.url("/small", "127.0.0.1")}, b"moved")
        host.answers |= {"/missing": (404, {}, b""), "/busy": (429, {}, b""), "/empty": (204, {}, b"")}
        host.answers["/header"] = (200, {"X-Long": "x" * 200_000}, small)
        yield host


def picture(width: int = 100, height: int = 80, color: str = "red", mode: str = "RGB") -> str:
    stream = io.BytesIO()
    Image.new(mode, (width, height), color).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def icon_of(png: bytes) -> str:
    """An icon of 16 x 16 pixels, as it says, with a picture of any size in it."""
    entry = struct.pack("<HHH BBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22)
    return "data:image/x-icon;base64," + base64.b64encode(entry + png).decode()


def chunk(name: bytes, body: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def asked(*urls: str, text: str = "x") -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def chat(http: httpx.Client, *urls: str, **fields: Any) -> httpx.Response:
    return http.post(PATH, json={"messages": asked(*urls), "max_tokens": 3, "temperature": 0, **fields})


def refused(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


def parsed(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_an_image_is_part_of_the_prompt(http: httpx.Client) -> None:
    small, large, none = chat(http, picture()), chat(http, picture(400, 400)), chat(http)
    assert [response.status_code for response in (small, large, none)] == [200] * 3
    tokens = [response.json()["usage"]["prompt_tokens"] for response in (none, small, large)]
    assert tokens[0] + 2 < tokens[1] < tokens[2]
    two = chat(http, picture(), picture(color="blue"))
    assert two.json()["usage"]["prompt_tokens"] > tokens[1] + 2


def test_streams_and_both_paths_take_images(http: httpx.Client) -> None:
    whole = chat(http, picture(), logprobs=True).json()["choices"][0]["message"]["content"]
    assert whole == chat(http, picture()).json()["choices"][0]["message"]["content"]
    stream = chat(http, picture(), stream=True)
    assert stream.text.rstrip().endswith("data: [DONE]")
    response = http.post(
        "/v1/responses",
        json={"input": [{"role": "user", "content": [{"type": "input_image", "image_url": picture()}]}]},
    )
    assert response.status_code == 200, response.text
    capitals = "DATA:IMAGE/PNG;BASE64," + picture().partition(",")[2]
    assert chat(http, capitals).json()["choices"][0]["message"]["content"] == whole


def test_images_are_bounded(server: ServerProcess, http: httpx.Client) -> None:
    status, param, text = refused(chat(http, *[picture()] * 3))
    assert (status, param, "At most 2 image" in text) == (400, "messages", True)
    limit = "the limit is 1000000 (set by --max-image-pixels)"
    place = "messages[0].content[0]"
    assert refused(chat(http, picture(2000, 1000))) == (400, place, f"{place}: the image has 2000000 pixels; {limit}")
    bomb = picture(20000, 20000, "black", "L")
    assert len(bomb) < 1 << 20
    assert refused(chat(http, bomb)) == (400, place, f"{place}: the image has 400000000 pixels; {limit}")
    icon = icon_of(base64.b64decode(bomb.partition(",")[2]))
    assert refused(chat(http, icon))[:2] == (400, place)
    narrow = "1x300 pixels are too narrow; the longer side may be at most 200 times the shorter"
    assert refused(chat(http, picture(1, 300))) == (400, place, f"{place}: {narrow}")
    several = refused(chat(http, picture(), picture(1, 300)))
    assert several == (400, "messages", f"one of the images: {narrow}")
    assert chat(http, picture()).status_code == 200
    assert server.metrics()["requests"]["failed"] == 0


def test_a_request_says_how_large_the_model_sees_an_image(server: ServerProcess, http: httpx.Client) -> None:
    def tokens(*urls: str, **size: int | None) -> int:
        response = chat(http, *urls, mm_processor_kwargs=size)
        assert response.status_code == 200, response.text
        return int(response.json()["usage"]["prompt_tokens"])

    plain = tokens(picture(400, 400))
    assert tokens(picture(400, 400), max_pixels=100 * 100) < plain < tokens(picture(400, 400), min_pixels=600 * 600)
    assert tokens(picture(400, 400)) == tokens(picture(400, 400), min_pixels=None) == plain
    # Requests that say nothing have the server's default.
    scaled, whole = tokens(picture(700, 700)), tokens(picture(700, 700), max_pixels=1_000_000)
    assert scaled == tokens(picture(700, 700), max_pixels=DEFAULT_PIXELS) < whole
    status, param, text = refused(chat(http, picture(), mm_processor_kwargs={"min_pixels": 1_000_001}))
    assert (status, param) == (400, "mm_processor_kwargs.min_pixels")
    assert text == f"{param} must be at most 1000000 (--max-image-pixels)"
    # More than the context holds: vLLM says so, and the server goes on.
    assert refused(chat(http, picture(), mm_processor_kwargs={"min_pixels": 1_000_000}))[0] == 400
    assert server.metrics()["requests"]["failed"] == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.png", "https://example.org/x.png", "file:///etc/passwd", "x"])
def test_images_come_only_from_where_they_may(http: httpx.Client, url: str) -> None:
    status, param, text = refused(chat(http, url))
    assert (status, param) == (400, "messages[0].content[0]")
    assert "fetched from localhost (--image-domains)" in text
    source = {"type": "image", "source": {"type": "url", "url": url}}
    messages = [{"role": "user", "content": [source]}]
    assert http.post("/v1/messages", json={"messages": messages, "max_tokens": 3}).status_code == 400


def test_an_image_of_an_allowed_host_is_fetched(http: httpx.Client, host: ImageHost) -> None:
    url = host.url("/small")
    answers = [chat(http, picture()), chat(http, url), chat(http, url, logprobs=True)]
    shown = {
        (body["usage"]["prompt_tokens"], body["choices"][0]["message"]["content"]) for body in map(parsed, answers)
    }
    assert len(shown) == 1
    item = {"role": "user", "content": [{"type": "input_image", "image_url": url}]}
    assert http.post("/v1/responses", json={"input": [item], "max_output_tokens": 3}).status_code == 200
    source = {"type": "image", "source": {"type": "url", "url": url}}
    messages = [{"role": "user", "content": [source]}]
    assert http.post("/v1/messages", json={"messages": messages, "max_tokens": 3}).status_code == 200
    assert host.asked["/small"] == 4


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/moved", "the image could not be fetched: its host answered 302; redirects are not followed"),
        ("/page", "what the host of the image sent is in none of the formats that are read: AVIF, "),
        ("/large", "the image could not be fetched: it has more than 4 MiB (set by --max-body-bytes)"),
        ("/endless", "the image could not be fetched: it has more than 4 MiB (set by --max-body-bytes)"),
        ("/missing", "the image could not be fetched: its host answered 404"),
        ("/busy", "the image could not be fetched: its host answered 429"),
        ("/empty", "the image could not be fetched: its host answered 204"),
        ("/header", "the image could not be fetched: the answer of its host could not be read"),
        ("/wide", "the image has 2000000 pixels; the limit is 1000000 (set by --max-image-pixels)"),
    ],
)
def test_an_image_that_cannot_be_fetched_is_the_mistake_of_its_request(
    server: ServerProcess, http: httpx.Client, host: ImageHost, path: str, text: str
) -> None:
    host.asked.clear()
    for answer in (chat(http, host.url(path)), chat(http, host.url(path), logprobs=True)):
        status, param, told = refused(answer)
        assert (status, param) == (400, "messages[0].content[0]")
        assert told.startswith(f"{param}: {text}")
    assert host.asked == {path: 2}, "no redirect is followed"
    assert server.metrics()["requests"]["failed"] == 0


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data:image/png;base64,AAAA", "the image is in none of the formats that are read: AVIF, "),
        ("data:image/png;base64,!!!!", "the data of the image is not valid base64"),
        ("data:image/png,x", "the data URL of an image begins like data:image/png;base64,"),
        ("http://localhost:99999/x", "the port in the URL of the image is not a number up to 65535"),
    ],
)
def test_the_one_image_of_several_that_cannot_be_read_is_named(
    server: ServerProcess, http: httpx.Client, url: str, text: str
) -> None:
    for answer in (chat(http, picture(), url), chat(http, picture(), url, logprobs=True)):
        status, param, told = refused(answer)
        assert (status, param) == (400, "messages[0].content[1]")
        assert told.startswith(f"{param}: {text}")
    parts = [{"type": "input_image", "image_url": each} for each in (picture(), url)]
    status, param, told = refused(http.post("/v1/responses", json={"input": [{"role": "user", "content": parts}]}))
    assert (status, param, told.startswith(f"{param}: {text}")) == (400, "input[0].content[1]", True), told
    assert server.metrics()["requests"]["failed"] == 0


def test_an_image_of_a_message_that_cannot_be_read_is_named(http: httpx.Client) -> None:
    sources = [{"type": "base64", "media_type": "image/png", "data": data} for data in (picture()[22:], "!!!!")]
    blocks = [{"type": "image", "source": source} for source in sources]
    body = {"messages": [{"role": "user", "content": blocks}], "max_tokens": 3}
    response = http.post("/v1/messages", json=body)
    assert response.status_code == 400
    place = "messages[0].content[1]"
    assert response.json()["error"]["message"] == f"{place}: the data of the image is not valid base64"


def test_a_file_that_pillow_fails_on_is_the_mistake_of_its_request(server: ServerProcess, http: httpx.Client) -> None:
    image = base64.b64decode(picture().partition(",")[2])
    crowded = image[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (2 << 20))) + image[33:]
    start = image.index(b"IDAT")
    broken = image[: start - 4] + chunk(b"IDAT", image[start + 4 : start + 24]) + b"\0" * 12
    for file, text in ((crowded, "the file of the image has too much text"), (broken, "the image cannot be decoded: ")):
        url = "data:image/png;base64," + base64.b64encode(file).decode()
        status, param, told = refused(chat(http, url))
        assert (status, param, told.startswith(f"{param}: {text}")) == (400, "messages[0].content[0]", True), told
    assert server.metrics()["requests"]["failed"] == 0


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image_url", "image_url": "data:image/png;base64,AAAA"}, "image_url"),
        ({"type": "image_url", "image_url": {}}, "image_url.url"),
        ({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}, "type"),
    ],
)
def test_an_image_that_is_no_part_of_a_chat_is_named(http: httpx.Client, part: dict[str, Any], name: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]
    for path in (PATH, "/tokenize"):
        status, param, told = refused(http.post(path, json={"messages": messages}))
        assert (status, param) == (400, f"messages[0].content[1].{name}")
        assert told.startswith(param)


@pytest.mark.parametrize("kind", ["video_url", "audio_url", "input_audio"])
def test_videos_and_sound_are_refused(http: httpx.Client, host: ImageHost, kind: str) -> None:
    host.asked.clear()
    sound = {"data": "AAAA", "format": "wav"}
    part = {"type": kind, kind: sound if kind == "input_audio" else {"url": host.url("/small")}}
    response = http.post(PATH, json={"messages": [{"role": "user", "content": [part]}], "max_tokens": 3})
    status, param, text = refused(response)
    assert (status, param) == (400, "messages[0].content[0]")
    assert text.startswith("At most 0 ")
    item = {"role": "user", "content": [{**part, "type": kind.replace("_url", "")}]}
    assert http.post("/v1/responses", json={"input": [item]}).status_code == 400
    assert http.post("/v1/messages", json={"messages": [item], "max_tokens": 3}).status_code == 400
    assert not host.asked, "nothing is fetched"


def test_no_request_gets_the_image_of_another_by_its_name(http: httpx.Client) -> None:
    def named(image: Any) -> httpx.Response:
        part = {"type": "image_url", "image_url": image, "uuid": "invoice-1"}
        return http.post(PATH, json={"messages": [{"role": "user", "content": [part]}], "max_tokens": 3})

    for image in ({"url": picture()}, None):
        status, param, _ = refused(named(image))
        assert (status, param) == (400, "messages[0].content[0].uuid")


def test_the_page_shows_a_request_that_works(server: ServerProcess, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "photo.png").write_bytes(base64.b64decode(picture().partition(",")[2]))
    script = example.replace("http://localhost:8000", server.url)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=60)


def test_an_answer_about_an_image_that_only_the_dead_engine_had_ends_with_the_reason(
    server: ServerProcess, http: httpx.Client
) -> None:
    """An image that the engine has is not sent to it again. The next engine gets it anew."""
    expected = chat(http, picture(300, 300))
    body = {"messages": asked(picture(300, 300)), "max_tokens": 500, "min_tokens": 500, "stream": True}
    with http.stream("POST", PATH, json=body) as stream:
        lines = stream.iter_lines()
        assert '"delta"' in next(lines)
        os.kill(server.engine_core(), signal.SIGKILL)
        rest = "".join(lines)
    assert '"code":"engine_restarted"' in rest.replace(" ", ""), rest[-500:]
    assert "only the engine had that died" in rest
    again = http.post(PATH, json={"messages": asked(picture(300, 300)), "max_tokens": 3, "temperature": 0})
    assert again.json()["choices"] == expected.json()["choices"]
