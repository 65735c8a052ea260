"""Translates vLLM's exceptions and error responses into the errors of the HTTP layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from vllm.entrypoints.serve import create_error_response
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from qwen_server.engine.base import BusyError, EngineError, EngineGoneError, InvalidRequestError
from qwen_server.engine.vllm.causes import explain, one_line
from qwen_server.engine.vllm.image_errors import ImageError, named, not_processed
from qwen_server.engine.vllm.images import place_of_image
from qwen_server.engine.vllm.patches.vllm_texts import (
    LEADING_NAME,
    MEMORY_FILE,
    PARAMETERS,
    PART_PARAMETERS,
    PROMPT_PARAMETERS,
    TOO_LONG,
    TRAILING_DETAILS,
)
from qwen_server.engine.vllm.places import culprit, part_at, place_of

_FIELD = re.compile(r"[a-z_0-9]+")  # the branches of a union have the names of types


@contextmanager
def translated(
    prompt_param: str, death_cause: Callable[[], str], body: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Raises vLLM's exceptions as InvalidRequestError or EngineError.

    prompt_param: the client's name for the prompt, `messages` or `prompt`.
    body: the request's body, in which an error names its place.
    """
    try:
        with _translated(prompt_param, death_cause, body or {}):
            yield
    except InvalidRequestError as error:
        if error.param == prompt_param and error.code is None:
            error.param = culprit(error.message, (body or {}).get(prompt_param), prompt_param)
            error.message = named(error.message, error.param if error.param != prompt_param else None)
        raise


@contextmanager
def _translated(prompt_param: str, death_cause: Callable[[], str], body: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except (BusyError, EngineError, InvalidRequestError):
        raise
    except EngineDeadError as error:
        raise EngineGoneError(death_cause()) from error
    except EngineGenerateError as error:
        raise EngineError(explain(error.__cause__ or error)) from error
    except ValidationError as error:
        raise _of_pydantic(error, prompt_param, body) from error
    except VLLMValidationError as error:
        raise invalid(str(error.args[0]), error.parameter, 400, prompt_param) from error
    except ImageError as error:
        place = place_of_image(error.url, body)
        text = str(error) if place is None else named(str(error), place)
        raise InvalidRequestError(text, param=place or prompt_param) from error
    except Exception as error:
        raise of_response(create_error_response(error), prompt_param) from error


def of_response(response: Any, prompt_param: str) -> InvalidRequestError | EngineError:
    """Translates an ErrorResponse of vLLM's serving objects."""
    error = response.error
    if error.code >= 500 and error.code != 501:
        return EngineError(one_line(error.message))
    return invalid(error.message, error.param, 400 if error.code == 501 else error.code, prompt_param)


def invalid(message: str, param: str | None, status: int, prompt_param: str) -> InvalidRequestError:
    """A refusal with the client's name of the parameter."""
    message = MEMORY_FILE.sub("", TRAILING_DETAILS.sub("", message))
    message = not_processed(message) or message
    too_long = TOO_LONG in message
    if param is None:
        leading = LEADING_NAME.match(message)
        otherwise = leading[1] if leading else None
        param = next((name for pattern, name in PARAMETERS if pattern.search(message)), otherwise)
    if param in PROMPT_PARAMETERS or param in PART_PARAMETERS or param == "" or too_long:
        param = prompt_param
    return InvalidRequestError(
        message, param=param, code="context_length_exceeded" if too_long else None, status=status
    )


def _of_pydantic(error: ValidationError, prompt_param: str, body: Mapping[str, Any]) -> InvalidRequestError:
    detail = _most_useful(error.errors(include_url=False, include_context=False, include_input=False))
    if place := place_of(detail["loc"], body):
        return InvalidRequestError(f"{place}: {detail['msg']}", param=place)
    first = detail["loc"][0] if detail["loc"] else None
    if isinstance(first, int):
        # vLLM validates the parts of a message lazily, so pydantic does not know the message.
        place = part_at(first, body.get(prompt_param), prompt_param) or prompt_param
        return InvalidRequestError(f"{place} is not valid: its type, or a field of that type, is wrong", param=place)
    path = [part for part in detail["loc"] if isinstance(part, str) and _FIELD.fullmatch(part)]
    where = path[0] if path else None
    return InvalidRequestError(f"{'.'.join(path)}: {detail['msg']}" if path else detail["msg"], param=where)


def _most_useful(details: list[ErrorDetails]) -> ErrorDetails:
    """The error to show of all members of a union.

    If the value is an array or an object, "not a string" says least. Of several kinds of objects,
    the one with the given `type` counts.
    """
    ends = ((detail, detail["loc"][:-1], detail["loc"][-1:]) for detail in details)
    others = {start for detail, start, end in ends if detail["type"] == "literal_error" and end == ("type",)}
    useful = [detail for detail in details if detail["loc"][-1:] != ("str",)] or details
    meant = (each for each in useful if not any(each["loc"][: len(other)] == other for other in others))
    return next(meant, useful[0])
