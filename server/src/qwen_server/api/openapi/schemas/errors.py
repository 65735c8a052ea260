"""The bodies of errors; `qwen_server.http.error_bodies` makes them."""

from __future__ import annotations

from pydantic import Field

from qwen_server.api.openapi.schemas.base import Exact


class ClientErrorDetail(Exact):
    """OpenAI's error object."""

    message: str = Field(min_length=1, description="what is wrong, naming the parameter and the limit")
    type: str = Field(description="such as invalid_request_error")
    param: str | None = Field(description="the parameter that is wrong")
    code: str | None = Field(description="such as model_not_found")


class ClientError(Exact):
    """A mistake of the client, in OpenAI's shape."""

    error: ClientErrorDetail


class Unavailable(Exact):
    """服务繁忙: the request was refused or abandoned; retry it after `Retry-After`."""

    error: str = Field(description="why")
    queue_size: int = Field(ge=0, description="requests that wait now")
    max_queue_size: int = Field(ge=0, description="requests that may wait")


class EngineFailure(Exact):
    """内部错误: the engine failed."""

    error: str = Field(min_length=1, description="why, as far as it is known")
