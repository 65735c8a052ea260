"""Reads the images of requests with vLLM's connector, and says which one cannot be read and why.

vLLM lets others register a connector. Its own raises the errors of several libraries, which tell
neither that they are about an image nor about which one, and it takes the body of a redirect for
an image.
"""

from __future__ import annotations

from typing import Any, Final

import aiohttp
from vllm import envs
from vllm.connections import HTTPConnection
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from qwen_server.engine.vllm.image_errors import ImageError, reason_of

_NAME: Final = "http"  # of vLLM's own, which is used unless the environment names another one
_WITH_IMAGE: Final = (200, 203)


class Hosts(HTTPConnection):
    """vLLM's connections. An answer that has no image is an error, such as a redirect."""

    _session: aiohttp.ClientSession | None = None

    async def get_async_client(self) -> aiohttp.ClientSession:
        """The client of this event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=True, raise_for_status=require_image)
        return self._session


async def require_image(response: aiohttp.ClientResponse) -> None:
    """Raises aiohttp.ClientResponseError if the status says that the answer is something else."""
    if response.status not in _WITH_IMAGE:
        response.release()
        raise aiohttp.ClientResponseError(
            response.request_info,
            response.history,
            status=response.status,
            message=response.reason or "",
            headers=response.headers,
        )


_HOSTS: Final = Hosts()


class ImageConnector(MediaConnector):
    """vLLM's connector for one request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connection = _HOSTS

    async def fetch_image_async(self, image_url: str, *arguments: Any, **options: Any) -> Any:
        """The image. Raises ImageError, or the server's own errors as they are."""
        try:
            return await super().fetch_image_async(image_url, *arguments, **options)
        except Exception as error:
            if (reason := reason_of(error, image_url, envs.VLLM_MAX_IMAGE_PIXELS)) is None:
                raise
            raise ImageError(reason, image_url) from error


def connect_images() -> None:
    """Lets vLLM read images with our connector."""
    registry: Any = MEDIA_CONNECTOR_REGISTRY
    registry.register(_NAME)(ImageConnector)
