"""What a client is told about an image that cannot be read."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from random import Random

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from PIL import Image, UnidentifiedImageError
from yarl import URL

from qwen_server.engine.vllm.image_errors import ImageError, named, not_processed, reason_of
from qwen_server.engine.vllm.images import FORMATS

GIVEN = "data:image/png;base64,AAAA"
FETCHED = "http://localhost/x.png"


def error_of(data: bytes) -> Exception:
    """What Pillow raises for a file, as vLLM passes it on."""
    try:
        Image.open(io.BytesIO(data), formats=FORMATS).load()
    except (OSError, UnidentifiedImageError) as error:
        wrapped = ValueError(f"Failed to load image: {error}")
        wrapped.__cause__ = error
        return wrapped
    except Exception as error:  # noqa: BLE001 - it may be any
        return error
    raise AssertionError("Pillow reads it")


def png() -> bytes:
    file = io.BytesIO()
    noise = Random(0).randbytes(64 * 64)
    Image.frombytes("L", (64, 64), noise).save(file, "PNG")
    return file.getvalue()


def of_size(width: int, height: int) -> bytes:
    """The head of a PNG that says this of itself."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png()[:12] + body + struct.pack(">I", zlib.crc32(body)) + png()[33:]


def with_long_text(image: bytes) -> bytes:
    """A PNG with 2 MiB of text in a small file."""
    body = b"zTXt" + b"Comment\0\0" + zlib.compress(b"x" * (2 << 20))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    head = 8 + 25  # the signature and the first chunk
    return image[:head] + chunk + image[head:]


def answered(status: int, headers: CIMultiDict[str] | None) -> aiohttp.ClientResponseError:
    request = aiohttp.RequestInfo(URL(FETCHED), "GET", CIMultiDictProxy(CIMultiDict()), URL(FETCHED))
    return aiohttp.ClientResponseError(request, (), status=status, headers=headers)


def raised_by_vllm(text: str, cause: Exception | None = None) -> Exception:
    """vLLM's error for an image that it cannot fetch, with the details that it shows."""
    error = ValueError(f"Failed to fetch media from URL: {text} (parameter=image_url, value={FETCHED})")
    error.__cause__ = cause
    return error


def test_an_image_that_cannot_be_decoded_is_told_why() -> None:
    formats = f"is in none of the formats that are read: {', '.join(FORMATS)}"
    assert reason_of(error_of(b"x"), GIVEN, 9) == f"the image {formats}"
    assert reason_of(error_of(b"<html>"), FETCHED, 9) == f"what the host of the image sent {formats}"
    cut = reason_of(error_of(png()[:2000]), GIVEN, 9)
    assert cut is not None
    assert cut.startswith("the image cannot be decoded: image file is truncated")
    long = error_of(with_long_text(png()))
    assert "MAX_TEXT_CHUNK" in str(long)
    assert reason_of(long, GIVEN, 9) == "the file of the image has too much text besides the pixels"
    # Pillow may raise anything for a file that is broken.
    for error in (SyntaxError("broken PNG file"), KeyError("x"), struct.error("x"), RuntimeError("x")):
        assert str(reason_of(error, GIVEN, 9)).startswith("the image cannot be decoded: ")
    assert reason_of(EOFError(), GIVEN, 9) == "the image cannot be decoded: EOFError"
    assert len(str(reason_of(ValueError("x" * 1000), GIVEN, 9))) < 300


@pytest.mark.parametrize("data", ["!!!!", "AAA"])
def test_data_that_is_not_base64_is_told_so(data: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        base64.b64decode(data, validate=True)
    told = "the data of the image is not valid base64"
    assert reason_of(caught.value, GIVEN, 9) == told
    other = ValueError("string argument should contain only ASCII characters")
    assert reason_of(other, "data:image/png;base64,ä", 9) == told


def test_an_image_with_too_many_pixels_is_told_our_limit() -> None:
    told = "the limit is 1000 (set by --max-image-pixels)"
    bomb = error_of(of_size(20000, 20000))
    assert isinstance(bomb, Image.DecompressionBombError)
    assert reason_of(bomb, GIVEN, 1000) == f"the image has 400000000 pixels; {told}"
    assert reason_of(Image.DecompressionBombError("?"), GIVEN, 1000) == f"the image has too many pixels; {told}"
    vllms = ValueError("Image dimensions 50x40 (2000 pixels) exceed the maximum of 1000 pixels. Set VLLM_MAX_IMAGE_")
    assert reason_of(vllms, FETCHED, 1000) == f"the image has 2000 pixels; {told}"


def test_an_image_that_cannot_be_fetched_is_told_why() -> None:
    told = "the image could not be fetched: "
    no_headers: CIMultiDict[str] = CIMultiDict()
    assert reason_of(answered(503, no_headers), FETCHED, 9) == f"{told}its host answered 503"
    moved = raised_by_vllm("HTTP 302 error", answered(302, no_headers))
    assert reason_of(moved, FETCHED, 9) == f"{told}its host answered 302; redirects are not followed"
    gone = raised_by_vllm("HTTP 404 error", answered(404, no_headers))
    assert reason_of(gone, FETCHED, 9) == f"{told}its host answered 404"
    # aiohttp has a status of its own for what it cannot read.
    unread = raised_by_vllm("HTTP 400 error", answered(400, None))
    assert reason_of(unread, FETCHED, 9) == f"{told}the answer of its host could not be read"
    assert reason_of(raised_by_vllm("Invalid URL format"), FETCHED, 9) == f"{told}its URL is not valid"
    assert reason_of(ValueError("Failed to parse: http://x"), FETCHED, 9) == f"{told}its URL is not valid"
    large = raised_by_vllm("Remote media download exceeds VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB=4 (received 9 bytes)")
    assert reason_of(large, FETCHED, 9) == f"{told}it has more than 4 MiB (set by --max-body-bytes)"
    assert reason_of(raised_by_vllm("another reason"), FETCHED, 9) == f"{told}another reason"
    for slow in (aiohttp.ServerTimeoutError(), TimeoutError()):
        assert reason_of(slow, FETCHED, 9) == f"{told}its host took too long"
    assert reason_of(aiohttp.ServerDisconnectedError(), FETCHED, 9) == f"{told}the connection failed"


def test_a_failure_of_the_server_is_not_the_images() -> None:
    for error in (MemoryError(), RuntimeError("can't start new thread")):
        assert reason_of(error, GIVEN, 9) is None
    assert reason_of(RuntimeError("cannot schedule new futures after shutdown"), FETCHED, 9) is None


def failed(*sizes: tuple[int, int]) -> str:
    """vLLM's text, which has the images as Pillow shows them."""
    data = {"images": [Image.new("RGB", size) for size in sizes]}
    return f"Failed to apply Qwen2_5_VLProcessor on data={data} with kwargs={{'min_pixels': None}}"


def test_an_image_that_the_models_processor_refuses_is_told_why() -> None:
    told = "pixels are too narrow; the longer side may be at most 200 times the shorter"
    assert not_processed(failed((100, 80), (1, 300))) == f"image: 1x300 {told}"
    assert not_processed(failed((300, 1))) == f"image: 300x1 {told}"
    known = "image: the model cannot process it"
    assert not_processed(failed((200, 1), (9, 9))) == f"{known} (200x1, 9x9 pixels)"
    assert not_processed(failed()) == known
    assert not_processed("At most 2 images may be provided") is None


def test_a_text_names_the_place_or_says_that_it_is_one_of_several() -> None:
    error = ImageError("the image is bad", GIVEN)
    assert named(str(error), "input[0].content[1]") == "input[0].content[1]: the image is bad"
    assert named(str(error), None) == "one of the images: the image is bad"
    assert named("At most 2 images may be provided", "messages") == "At most 2 images may be provided"
