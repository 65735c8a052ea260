"""Images in requests: whether the model reads them, how many, and where they may come from.

vLLM itself decodes them, in threads, and bounds their pixels (see `environment.py`). What is wrong
with one that it cannot read, `image_errors.py` says.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from PIL import Image

from qwen_server.config.settings import Settings
from qwen_server.engine.base import InvalidRequestError, Kind
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
_CHATS: Final = ("chat", "tokenize")  # the kinds of request whose parts are those of a chat
# With one of them, vLLM reads an input_image in a chat, too.
_DETAILS: Final = ("auto", "high", "low", "original")


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

    def check(self, body: Mapping[str, Any], kind: Kind = "chat") -> None:
        """Raises InvalidRequestError for an image that is not given as the API has it, for one that
        would be fetched from elsewhere, for a size that the server or the model does not have, and
        for a name of one's own: under it, vLLM would give a client the image of another.
        """
        self._check_size(body.get("mm_processor_kwargs") or {})
        for param in ("messages", "input"):
            chat = param == "messages" and kind in _CHATS
            for place, entry in entries(body.get(param), param):
                if entry.get("uuid") is not None:
                    text = f"{place}.uuid is not supported: an image is known by its content, which must be sent"
                    raise InvalidRequestError(text, param=f"{place}.uuid")
                if chat and (fault := _fault_of(entry)):
                    name, text = fault if self.read else ("", ": this model reads no images")
                    raise InvalidRequestError(f"{place}{name}{text}", param=f"{place}{name}")
                if self.read:
                    self._check_url(entry, place)

    def _check_url(self, entry: Mapping[str, Any], place: str) -> None:
        url = _url_of(entry)
        if url is None:
            if entry.get("type") == "input_image":
                raise self._no_url(entry, place)
            return
        if wrong := self._fault_of_url(url):
            raise InvalidRequestError(f"{place}: {wrong}", param=place)

    def _fault_of_url(self, url: str) -> str | None:
        """Why no image is read from there; None if it may be."""
        if url[:5].lower() == "data:":
            return None if _is_base64(url) else "the data URL of an image begins like data:image/png;base64,"
        if _host_of(url) not in self.domains:
            allowed = ", ".join(self.domains) or "nowhere"
            return f"images are fetched from {allowed} (--image-domains); send a data URL instead"
        return None if _has_valid_port(url) else "the port in the URL of the image is not a number up to 65535"

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


def place_of_image(url: str, body: Mapping[str, Any]) -> str | None:
    """The place of the first image in the body that vLLM knows by this URL; None if there is none.

    Images with the same URL are the same, so the first one is as good as any.
    """
    data = url.partition(",")[2]
    for param in ("messages", "input"):
        for place, entry in entries(body.get(param), param):
            given = _url_of(entry)
            if given == url or (given is not None and _plain_url(given) == url):
                return place
            source = entry.get("source")
            # vLLM makes a data URL of an image that a message has without one.
            if data and isinstance(source, Mapping) and source.get("data") == data:
                return place
    return None


def _fault_of(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with an image as a part of a chat: the name after its place, and the text."""
    kind = entry.get("type")
    if kind == "input_image" and entry.get("detail") not in _DETAILS:
        return ".type", ": an image in a chat has the type image_url; input_image is for /v1/responses"
    if kind != "image_url":
        return None
    image = entry.get("image_url")
    if not isinstance(image, Mapping):
        return ".image_url", ' must be an object with the URL of the image: {"url": "data:image/png;base64,..."}'
    if not isinstance(image.get("url"), str):
        return ".image_url.url", " must be a string with the URL of the image, such as data:image/png;base64,..."
    return None


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


def _has_valid_port(url: str) -> bool:
    try:
        urlsplit(url).port  # noqa: B018 - it is read when it is asked for
    except ValueError:
        return False
    return True


def _is_base64(url: str) -> bool:
    comma = url.find(",")
    return comma >= 0 and url[:comma].lower().endswith(";base64")


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


def plain_image(width: int, height: int) -> str:
    """The data URL of a black image, for a request of our own."""
    rows = zlib.compress((b"\0" * (1 + width)) * height)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()
