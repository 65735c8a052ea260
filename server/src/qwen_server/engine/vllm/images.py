"""Images in requests: whether the model reads them, how many, and where they may come from.

vLLM itself decodes them, in threads, and bounds their pixels (see `environment.py`).
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from PIL import Image

from qwen_server.config.settings import Settings
from qwen_server.engine.base import InvalidRequestError
from qwen_server.engine.vllm.patches.vllm_texts import FETCHED_TOO_MUCH, IMAGE_SIZE, NOT_FETCHED, PROCESSOR_FAILED
from qwen_server.engine.vllm.places import entries

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

# vLLM fetches from anywhere if its list of domains is empty. Nothing has this name.
_NOWHERE: Final = "none.invalid"
# What vLLM may open. Of others, such as icons, Pillow decodes all pixels before it tells how many
# there are.
FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")

_URLS: Final = ("url", "image_url")
_TO_URLS: Final = (*_URLS, "content", "output", "source")
_MOST_OF_A_HEAD: Final = 128  # characters of a data URL before its comma
_MOST_OBLONG: Final = 200  # of the processors of Qwen's models
_SIZE: Final = re.compile(r"\((\d+) pixels\)")  # of an image, in Pillow's error


@dataclass(frozen=True, slots=True)
class Images:
    """What a server takes.

    read: whether the model reads images. If not, vLLM says so.
    domains: the hosts that images may be fetched from.
    pixels: the most that a request may have an image scaled to.
    """

    read: bool
    domains: tuple[str, ...] = ()
    pixels: int = 0

    def check(self, body: Mapping[str, Any]) -> None:
        """Raises InvalidRequestError for an image that would be fetched from elsewhere, for a size
        that the server or the model does not have, and for a name of one's own: under it, vLLM
        would give a client the image of another.
        """
        self._check_size(body.get("mm_processor_kwargs") or {})
        for param in ("messages", "input"):
            for place, entry in entries(body.get(param), param):
                if entry.get("uuid") is not None:
                    text = f"{place}.uuid is not supported: an image is known by its content, which must be sent"
                    raise InvalidRequestError(text, param=f"{place}.uuid")
                if not self.read:
                    continue
                url = _url_of(entry)
                if url is None and entry.get("type") == "input_image":
                    raise self._no_url(entry, place)
                if url is not None and url[:5].lower() != "data:" and _host_of(url) not in self.domains:
                    allowed = ", ".join(self.domains) or "nowhere"
                    text = f"{place}: images are fetched from {allowed} (--image-domains); send a data URL instead"
                    raise InvalidRequestError(text, param=place)

    def _no_url(self, entry: Mapping[str, Any], place: str) -> InvalidRequestError:
        """The refusal of an `input_image` without an image."""
        file = entry.get("file_id") is not None
        param = f"{place}.file_id" if file else f"{place}.image_url"
        what = "is not supported, because no files are stored" if file else "is required"
        others = f"or with a URL of {', '.join(self.domains)}" if self.domains else "as no URL is fetched"
        text = f"{param} {what}: send image_url with a data URL, {others} (--image-domains)"
        return InvalidRequestError(text, param=param)

    def readable(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The body with images as vLLM reads them: data URLs with lower case up to the comma.

        RFC 2397 knows `DATA:` and `;BASE64`, too. A size that is null is the default, but the
        model's processor would compare it. A body that needs no change is returned as it is.
        """
        if not self.read:
            return body
        odd: dict[str, Any] = {
            param: _with_plain_urls(body[param])
            for param in ("messages", "input")
            if any(_has_odd_url(entry) for _, entry in entries(body.get(param), param))
        }
        size = body.get("mm_processor_kwargs") or {}
        if None in size.values():
            odd["mm_processor_kwargs"] = {name: pixels for name, pixels in size.items() if pixels is not None}
        return {**body, **odd} if odd else body

    def _check_size(self, size: Mapping[str, int | None]) -> None:
        for name, pixels in size.items():
            param = f"mm_processor_kwargs.{name}"
            if pixels is None:
                continue
            if not self.read:
                raise InvalidRequestError(f"{param} is for models that read images; this one does not", param=param)
            if pixels > self.pixels:
                text = f"{param} must be at most {self.pixels} (--max-image-pixels)"
                raise InvalidRequestError(text, param=param)


def _url_of(entry: Mapping[str, Any]) -> str | None:
    image = entry.get("image_url", entry.get("source"))
    url = image.get("url") if isinstance(image, Mapping) else image
    return url if isinstance(url, str) else None


def _has_odd_url(entry: Mapping[str, Any]) -> bool:
    url = _url_of(entry)
    return url is not None and _plain_url(url) != url


def _with_plain_urls(value: Any, name: str = "") -> Any:
    """A copy of what leads to the URLs of a prompt."""
    if isinstance(value, list):
        return [_with_plain_urls(entry, name) for entry in value]
    if isinstance(value, dict):
        return {key: _with_plain_urls(each, key) if key in _TO_URLS else each for key, each in value.items()}
    return _plain_url(value) if isinstance(value, str) and name in _URLS else value


def _plain_url(url: str) -> str:
    if url[:5].lower() != "data:":
        return url
    head = url[:_MOST_OF_A_HEAD].partition(",")[0]
    return url if head.islower() else head.lower() + url[len(head) :]


def _host_of(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.hostname if parts.scheme in ("http", "https") else None


def limit_images(engine_args: AsyncEngineArgs, settings: Settings, config: Any) -> Images:
    """Sets vLLM's limits for a model that reads images, unless the user has set them."""
    if not config.is_multimodal_model:
        return Images(read=False)
    if not engine_args.limit_mm_per_prompt:
        engine_args.limit_mm_per_prompt = {"image": settings.max_images, "video": 0, "audio": 0}
    limit_formats()
    limit_pixels(settings.max_image_pixels)
    engine_args.allowed_media_domains = list(settings.image_domains) or [_NOWHERE]
    return Images(read=True, domains=settings.image_domains, pixels=settings.max_image_pixels)


def limit_formats() -> None:
    """Lets vLLM open no other formats than FORMATS."""
    from vllm.multimodal import image as opening  # noqa: PLC0415 - the rest of this module needs no vLLM

    opening.ALLOWED_IMAGE_FORMATS = FORMATS


def limit_pixels(pixels: int) -> None:
    """Lets Pillow open images of so many pixels. Its own limit may be lower.

    Pillow refuses an image with more than twice of MAX_IMAGE_PIXELS before vLLM counts its pixels.
    """
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, pixels)


def too_large(error: Image.DecompressionBombError, pixels: int) -> str:
    """The text for an image that Pillow refuses, with the limit of the settings in `pixels`."""
    found = _SIZE.search(str(error))
    size = f"it has {found[1]} pixels" if found else "it has too many pixels"
    return f"image: {size}; the limit is {pixels} (set by --max-image-pixels)"


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
            return f"image: {size}; the longer side may be at most {_MOST_OBLONG} times the shorter"
    those = ", ".join(f"{width}x{height}" for width, height in sizes)
    return "image: the model cannot process it" + (f" ({those} pixels)" if those else "")


def fetches(body: Mapping[str, Any]) -> bool:
    """Whether the body has an image that is not in it."""
    found = (_url_of(entry) for param in ("messages", "input") for _, entry in entries(body.get(param), param))
    return any(url is not None and url[:5].lower() != "data:" for url in found)


def unreachable(error: aiohttp.ClientError | TimeoutError) -> str:
    """The text for an image whose host fails, which vLLM takes for a failure of the server."""
    if isinstance(error, aiohttp.ClientResponseError):
        return _not_fetched(f"its host answered {error.status}")
    return _not_fetched("its host took too long" if isinstance(error, TimeoutError) else "the connection failed")


def not_fetched(message: str) -> str | None:
    """The text for an image that vLLM refuses to fetch; None if `message` says otherwise."""
    if (refused := NOT_FETCHED.match(message)) is None:
        return None
    if large := FETCHED_TOO_MUCH.search(message):
        return _not_fetched(f"it has more than {large[1]} MiB (set by --max-body-bytes)")
    return _not_fetched(f"its host answered {refused[1]}" if refused[1] else "its URL is not valid")


def _not_fetched(reason: str) -> str:
    return f"image: it could not be fetched: {reason}"


def plain_image(width: int, height: int) -> str:
    """The data URL of a black image, for a request of our own."""
    rows = zlib.compress((b"\0" * (1 + width)) * height)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()
