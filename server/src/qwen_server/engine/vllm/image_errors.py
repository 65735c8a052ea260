"""Why an image of a request cannot be read, as a text for the client.

A text begins with `image: ` until the place of the image is known, see `named`.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

import aiohttp
from PIL import Image

from qwen_server.engine.vllm.images import FORMATS
from qwen_server.engine.vllm.patches.vllm_texts import (
    FETCHED_TOO_MUCH,
    IMAGE_SIZE,
    INVALID_URL,
    MEMORY_FILE,
    NOT_DECODED,
    NOT_FETCHED,
    PROCESSOR_FAILED,
    TOO_MANY_PIXELS,
    TRAILING_DETAILS,
)

_UNNAMED: Final = "image: "
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_OBLONG: Final = 200  # of the processors of Qwen's models
_MOST_OF_A_REASON: Final = 200  # characters of another library's text
_SIZE: Final = re.compile(r"\((\d+) pixels\)")  # of an image, in Pillow's error and in vLLM's
# Pillow's texts.
_NO_FORMAT: Final = "cannot identify image file"
_MUCH_TEXT: Final = re.compile(r"MAX_TEXT_(CHUNK|MEMORY)")
# Python's texts: the server has no thread that could decode an image.
_NO_THREAD: Final = re.compile(r"start new thread|schedule new futures")


class ImageError(ValueError):
    """An image of a request cannot be read.

    url: the image's, as vLLM has it. It may be a data URL with all of the image.
    """

    def __init__(self, reason: str, url: str) -> None:
        super().__init__(_UNNAMED + reason)
        self.url = url


def named(text: str, place: str | None) -> str:
    """A text about an image with the image's place. None stands for any of several images."""
    if not text.startswith(_UNNAMED):
        return text
    return f"{place or 'one of the images'}: {text.removeprefix(_UNNAMED)}"


def reason_of(error: Exception, url: str, pixels: int) -> str | None:
    """What is wrong with an image that could not be read; None if it is not the image.

    url: the image's, with a data URL in lower case up to the comma.
    pixels: the limit of the settings.
    """
    text = _text_of(error)
    if isinstance(error, MemoryError) or _NO_THREAD.search(text):
        return None
    unfetched = _not_fetched(error, text)
    return f"the image could not be fetched: {unfetched}" if unfetched else _not_decoded(error, text, url, pixels)


def _text_of(error: Exception) -> str:
    text = " ".join(MEMORY_FILE.sub("", TRAILING_DETAILS.sub("", str(error))).split())
    return text[:_MOST_OF_A_REASON] or type(error).__name__


def _not_fetched(error: Exception, text: str) -> str | None:
    """Why an image could not be fetched; None if it was."""
    # vLLM's own error for an answer below 500 is caused by that of the connection.
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientResponseError) else error
    if isinstance(cause, aiohttp.ClientResponseError):
        return _answered(cause)
    if isinstance(error, TimeoutError):
        return "its host took too long"
    if large := FETCHED_TOO_MUCH.search(text):
        return f"it has more than {large[1]} MiB (set by --max-body-bytes)"
    if INVALID_URL.match(text):
        return "its URL is not valid"
    if isinstance(error, aiohttp.ClientError):
        return "the connection failed"
    refused = NOT_FETCHED.match(text)
    return refused[1] if refused else None


def _answered(error: aiohttp.ClientResponseError) -> str:
    # The client gives an answer that it cannot read a status of its own, and no headers.
    if error.headers is None:
        return "the answer of its host could not be read"
    followed = "; redirects are not followed" if error.status in _REDIRECTS else ""
    return f"its host answered {error.status}{followed}"


def _not_decoded(error: Exception, text: str, url: str, pixels: int) -> str:
    given = url.startswith("data:")
    if isinstance(error, Image.DecompressionBombError) or TOO_MANY_PIXELS in text:
        found = _SIZE.search(text)
        size = f"{found[1]} pixels" if found else "too many pixels"
        return f"the image has {size}; the limit is {pixels} (set by --max-image-pixels)"
    if given and (isinstance(error, binascii.Error) or not url.isascii()):
        return "the data of the image is not valid base64"
    if _NO_FORMAT in text:
        what = "the image" if given else "what the host of the image sent"
        return f"{what} is in none of the formats that are read: {', '.join(FORMATS)}"
    if _MUCH_TEXT.search(text):
        return "the file of the image has too much text besides the pixels"
    return f"the image cannot be decoded: {text.removeprefix(NOT_DECODED)}"


def not_processed(message: str) -> str | None:
    """The text for images that the model's processor refuses; None if `message` says otherwise.

    vLLM tells the arguments of the processor, and not its reason.
    """
    if PROCESSOR_FAILED.match(message) is None:
        return None
    sizes = [(int(width), int(height)) for width, height in IMAGE_SIZE.findall(message)]
    for width, height in sizes:
        if max(width, height) > _MOST_OBLONG * min(width, height):
            size = f"{width}x{height} pixels are too narrow"
            return f"{_UNNAMED}{size}; the longer side may be at most {_MOST_OBLONG} times the shorter"
    those = ", ".join(f"{width}x{height}" for width, height in sizes)
    return f"{_UNNAMED}the model cannot process it" + (f" ({those} pixels)" if those else "")
