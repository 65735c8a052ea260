"""Finds the place in a request's body that an error of vLLM is about.

A place is a path with indexes, such as `messages[3].content[0].type`. Nothing here knows vLLM's
types, so an error is only named as precisely as the body itself allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from qwen_server.engine.vllm.patches.vllm_texts import ENCRYPTED, MEDIA, NO_MEDIA, UNSUPPORTED_TYPE

_MEDIA_TYPES = ("image", "audio", "video", "embeds")


def place_of(location: Sequence[int | str], body: Mapping[str, Any]) -> str | None:
    """The place of an error of pydantic in `body`; None if it is not in the body.

    location: pydantic's path. Between the names of the body it also has the names of types.
    """
    place = ""
    value: Any = body
    for step in location:
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            place += f"[{step}]"
        elif isinstance(step, str) and isinstance(value, dict) and step in value:
            place += f".{step}" if place else step
        elif step == location[-1] and isinstance(step, str) and isinstance(value, dict) and place:
            return f"{place}.{step}"  # a field that is missing
        else:
            continue
        value = value[step]
    return place or None


def culprit(message: str, prompt: Any, param: str) -> str:
    """The place in the prompt that a message is about; `param` if the message does not tell.

    vLLM names no place when it refuses a part that the model cannot read or an item that it does
    not know.
    """
    if named := UNSUPPORTED_TYPE.search(message):
        found = _places(prompt, param, lambda entry: _type_of(entry) == named[1])
        return f"{found[0]}.type" if found else param
    if MEDIA.search(message):
        found = _places(prompt, param, lambda entry: any(kind in _type_of(entry) for kind in _MEDIA_TYPES))
        # Of several images, a model that reads images may refuse any.
        return found[0] if found and (len(found) == 1 or NO_MEDIA in message) else param
    if ENCRYPTED in message:
        found = _places(prompt, param, lambda entry: bool(entry.get("encrypted_content")))
        return f"{found[0]}.encrypted_content" if found else param
    return param


def part_at(index: int, prompt: Any, param: str) -> str | None:
    """The place of the first part with this index, of any message, that is not text."""
    for number, message in enumerate(prompt if isinstance(prompt, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        part = content[index] if isinstance(content, list) and index < len(content) else None
        if isinstance(part, dict) and part.get("type") != "text":
            return f"{param}[{number}].content[{index}]"
    return None


def _places(prompt: Any, param: str, is_it: Callable[[dict[str, Any]], bool]) -> list[str]:
    return [place for place, entry in entries(prompt, param) if is_it(entry)]


def entries(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of the arrays in a prompt with their places, those inside before the others."""
    if not isinstance(value, list):
        return
    for index, entry in enumerate(value):
        if isinstance(entry, dict):
            where = f"{place}[{index}]"
            for name in ("content", "output"):
                yield from entries(entry.get(name), f"{where}.{name}")
            yield where, entry


def _type_of(entry: Mapping[str, Any]) -> str:
    kind = entry.get("type")
    return kind if isinstance(kind, str) else ""
