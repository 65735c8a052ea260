"""Translates vLLM's exceptions and error responses into the errors of the HTTP layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.serve import create_error_response
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from qwen_server.engine.base import BusyError, EngineError, EngineGoneError, InvalidRequestError
from qwen_server.engine.vllm.causes import explain, one_line
from qwen_server.engine.vllm.patches.vllm_texts import (
    LEADING_NAME,
    PARAMETERS,
    PROMPT_PARAMETERS,
    TOO_LONG,
    TRAILING_DETAILS,
)

_FIELD = re.compile(r"[a-z_0-9]+")  # the branches of a union have the names of types


@contextmanager
def translated(prompt_param: str, death_cause: Callable[[], str]) -> Iterator[None]:
    """Raises vLLM's exceptions as InvalidRequestError or EngineError.

    prompt_param: the client's name for the prompt, `messages` or `prompt`.
    """
    try:
        yield
    except (BusyError, EngineError, InvalidRequestError):
        raise
    except EngineDeadError as error:
        raise EngineGoneError(death_cause()) from error
    except EngineGenerateError as error:
        raise EngineError(explain(error.__cause__ or error)) from error
    except ValidationError as error:
        raise _of_pydantic(error, prompt_param) from error
    except VLLMValidationError as error:
        raise invalid(str(error.args[0]), error.parameter, 400, prompt_param) from error
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
    message = TRAILING_DETAILS.sub("", message)
    too_long = TOO_LONG in message
    if param is None:
        leading = LEADING_NAME.match(message)
        otherwise = leading[1] if leading else None
        param = next((name for pattern, name in PARAMETERS if pattern.search(message)), otherwise)
    if param in PROMPT_PARAMETERS or param == "" or too_long:
        param = prompt_param
    return InvalidRequestError(
        message, param=param, code="context_length_exceeded" if too_long else None, status=status
    )


def _of_pydantic(error: ValidationError, prompt_param: str) -> InvalidRequestError:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    # For a union of a string and another type, "not a string" is the least useful error.
    detail = next((detail for detail in details if detail["loc"][-1:] != ("str",)), details[0])
    path = [str(part) for part in detail["loc"] if isinstance(part, int) or _FIELD.fullmatch(part)]
    if path and path[0].isdecimal():
        # vLLM validates the parts and the tool calls of a message lazily, so pydantic does not know
        # their place in the body.
        path = [prompt_param, *path]
    where = path[0] if path else None
    return InvalidRequestError(f"{'.'.join(path)}: {detail['msg']}" if path else detail["msg"], param=where)
