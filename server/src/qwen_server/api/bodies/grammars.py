"""The grammars in a body, and bounds on them that cost little to check.

Compiling a grammar may cost a million times what it costs to send one. What is within these bounds
and still costs too much is found by a trial in a process that can be killed (see
`Engine.check_grammar`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from qwen_server.config.settings import Settings
from qwen_server.http.error_bodies import HttpError, invalid

# Where an answer's constraint may be, in the four APIs.
_PLACES: Final = frozenset({"structured_outputs", "response_format", "text", "output_config", "tools"})
_KINDS: Final = frozenset({"json", "regex", "choice", "grammar", "structural_tag", "json_object", "whitespace_pattern"})
_COUNTS: Final = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_BRANCHES: Final = frozenset({"enum", "anyOf", "oneOf", "allOf", "prefixItems", "elements", "tags", "choice"})
_PATTERNS: Final = frozenset({"pattern", "regex", "grammar", "whitespace_pattern"})
_DATA: Final = frozenset({"const", "default", "examples", "enum"})
# {3}, {3,} and {3,5} in regular expressions and EBNF, ~3 and ~3..5 in Lark.
_REPEATS: Final = re.compile(r"[{~]\s*(\d+)(?:\s*(?:,|\.\.)\s*(\d+))?")


def grammars_of(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The parameters that constrain an answer, with their places. Tools do if a call is forced."""
    if _PLACES.isdisjoint(fields):
        return []
    return list(_grammars(fields))


def _grammars(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.get("structured_outputs", {}).items():
        if name in _KINDS and value is not None:
            yield f"structured_outputs.{name}", value
    for outer, inner in (("response_format", None), ("text", "format"), ("output_config", "format")):
        value = fields.get(outer)
        if inner is not None and isinstance(value, dict):
            value = value.get(inner)
        if isinstance(value, dict) and value.get("type") != "text":
            yield outer if inner is None else f"{outer}.{inner}", value
    tools = fields.get("tools")
    if tools and _forces_calls(fields, tools):
        yield "tools", _chosen(fields.get("tool_choice"), tools) or tools


def _forces_calls(fields: Mapping[str, Any], tools: list[Any]) -> bool:
    choice = fields.get("tool_choice", "auto")
    if isinstance(choice, dict):
        if choice.get("type") == "none":
            return False
        if choice.get("type") != "auto" or choice.get("disable_parallel_tool_use"):
            return True
    elif choice != "auto":
        return bool(choice != "none")
    return fields.get("parallel_tool_calls") is False or any(_is_strict(tool) for tool in tools)


def _chosen(choice: Any, tools: list[Any]) -> list[Any]:
    """The tool that a choice names: only its parameters become the grammar. Empty if it names none.

    A namespace may contain it.
    """
    name = _name(choice)
    if name is None:
        return []
    return [tool for tool in tools if _name(tool) == name or (isinstance(tool, dict) and tool.get("tools"))]


def _name(named: Any) -> Any:
    """The name of a tool or in a choice; chats have it one level deeper."""
    if not isinstance(named, dict):
        return None
    function = named.get("function")
    return function.get("name") if isinstance(function, dict) else named.get("name")


def _is_strict(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return False
    function, tools = tool.get("function"), tool.get("tools")
    if isinstance(tools, list):
        return any(_is_strict(each) for each in tools)
    return bool(tool.get("strict") or (isinstance(function, dict) and function.get("strict")))


# A value of a grammar, its name in the object around it ("" in an array), its level, and whether it
# is an example or a constant, so that its names mean nothing. A tuple, because there are thousands.
_Item = tuple[Any, str, int, bool]


class GrammarBounds:
    """The bounds of `settings` on the grammar of one request."""

    def __init__(self, settings: Settings) -> None:
        self._size = settings.max_grammar_size
        self._values = settings.max_grammar_values
        self._depth = settings.max_grammar_depth
        self._repeats = settings.max_grammar_repeats
        self._branches = settings.max_grammar_branches

    def check(self, param: str, grammar: Any) -> None:
        """Raises HttpError 400 with the bound that `grammar` is out of."""
        if isinstance(grammar, str):
            self._check_size(param, len(grammar))
            grammar = _parsed(grammar)
        size = 0
        left: list[_Item] = [(grammar, param.rpartition(".")[2], 1, False)]
        for value, key, depth, data in left:
            kind = type(value)
            size += len(value) if kind is str else 1
            if size > self._size or depth > self._depth:
                self._check_size(param, size)
                raise _beyond(param, f"is nested more than {self._depth} levels deep", "depth")
            if kind is dict or kind is list:
                if len(left) + len(value) > self._values:
                    raise _beyond(param, f"holds more than {self._values} values", "values")
                if kind is dict:
                    size += sum(map(len, value))
                    self._check_names(param, key, value, data)
                    left += [(child, name, depth + 1, data or name in _DATA) for name, child in value.items()]
                else:
                    self._check_branches(param, key, len(value))
                    left += [(child, "", depth + 1, data) for child in value]
            elif not data and (key in _COUNTS or key in _PATTERNS):
                self._check_leaf(param, key, value)

    def _check_size(self, param: str, size: int) -> None:
        if size > self._size:
            raise _beyond(param, f"has more than {self._size} characters", "size")

    def _check_branches(self, param: str, key: str, count: int) -> None:
        if key in _BRANCHES and count > self._branches:
            raise _beyond(param, f"has {count} alternatives in one place; {self._branches} are allowed", "branches")

    def _check_names(self, param: str, key: str, names: Mapping[str, Any], data: bool) -> None:
        """The names of `patternProperties` are regular expressions."""
        if key == "patternProperties" and not data:
            for name in names:
                self._check_repeats(param, name)

    def _check_leaf(self, param: str, key: str, value: Any) -> None:
        if key in _COUNTS and type(value) in (int, float):
            self._check_count(param, key, value)
        elif key in _PATTERNS and type(value) is str:
            self._check_repeats(param, value)

    def _check_repeats(self, param: str, text: str) -> None:
        for match in _REPEATS.finditer(text):
            for digits in match.groups():
                if digits is not None:
                    self._check_count(param, match[0][:20], int(digits[:9]))

    def _check_count(self, param: str, where: str, count: float) -> None:
        if count > self._repeats:
            raise _beyond(param, f"repeats something more than {self._repeats} times ({where})", "repeats")


def _parsed(text: str) -> Any:
    """The value of a schema that is sent as text. Any other grammar stays a text."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _beyond(param: str, text: str, bound: str) -> HttpError:
    return invalid(f"{param} {text} (the server's --max-grammar-{bound})", param)
