"""The bounds and defaults that the settings give to a body.

They are an explicit step, so that the declarations are the same in every server.

The table checks requests and is written into the API's description.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from qwen_server.config.settings import Settings
from qwen_server.http.error_bodies import invalid

_log = logging.getLogger(__name__)
_NUMBERS = frozenset({int, float})
_STOPS: Final = ("stop", "stop_sequences")
_TEXTS: Final = ("input", "documents", "queries", "text_1", "text_2")
_ANSWER_TOKENS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens")
# The flags that set the lower and the upper bound. An error names them, because whoever reads it
# may be the one who can change them.
_FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(_ANSWER_TOKENS, ("", "--max-tokens-limit")),
    "temperature": ("--min-temperature", "--max-temperature"),
    "n": ("", "--max-choices"),
}


class Limits:
    """The bounds of `settings`, by the parameters' names."""

    def __init__(self, settings: Settings) -> None:
        tokens = (1, settings.max_tokens_limit)
        self._bounds: dict[str, tuple[float, float]] = {
            "max_tokens": tokens,
            "max_completion_tokens": tokens,
            "max_output_tokens": tokens,
            "min_tokens": (0, settings.max_tokens_limit),
            "temperature": (settings.min_temperature, settings.max_temperature),
            "n": (1, settings.max_choices),
        }
        self._most_tokens = settings.max_tokens_limit
        self._cuts = settings.on_exceed == "clamp"
        self._prompts = settings.max_prompts
        self._stops = settings.max_stops
        self._inputs = settings.max_inputs
        self._sequences = settings.max_sequences
        self._defaults = {
            "max_tokens": settings.default_max_tokens,
            "max_output_tokens": settings.default_max_tokens,
            "temperature": settings.default_temperature,
        }

    def of(self, names: Iterable[str]) -> Mapping[str, tuple[float, float]]:
        """The bounds of those parameters that are among `names`."""
        among = set(names)
        bounds = {name: bounds for name, bounds in self._bounds.items() if name in among}
        if {"echo", "max_tokens"} <= among and "messages" not in among:
            bounds["max_tokens"] = (0, self._most_tokens)  # nothing but the prompt's echo
        return bounds

    def cut(self, given: dict[str, Any]) -> dict[str, Any]:
        """The body with token counts above the limit lowered to it, where the settings say so.

        A body that needs no change is returned as it is.
        """
        if not self._cuts:
            return given
        above = [name for name in _ANSWER_TOKENS if _is_above(given.get(name), self._most_tokens)]
        if not above:
            return given
        _log.info("cut %s of a request to %d (--on-exceed=clamp)", " and ".join(above), self._most_tokens)
        cut = given | dict.fromkeys(above, self._most_tokens)
        return _with_fitting_budget(given, cut) if "max_tokens" in above else cut

    def check_lengths(self, given: Mapping[str, Any]) -> None:
        """Raises HttpError 400 for too many prompts or stops, before each of them is looked at."""
        prompt = given.get("prompt")
        if isinstance(prompt, list) and len(prompt) > self._prompts and type(prompt[0]) is not int:
            raise _too_long("prompt", len(prompt), self._prompts, "--max-prompts")
        for name in _STOPS:
            stops = given.get(name)
            if isinstance(stops, list) and len(stops) > self._stops:
                raise _too_long(name, len(stops), self._stops, "--max-stops")

    def check_inputs(self, given: Mapping[str, Any]) -> None:
        """Raises HttpError 400 for too many texts to pool."""
        for name in _TEXTS:
            texts = given.get(name)
            if isinstance(texts, list) and len(texts) > self._inputs and type(texts[0]) is not int:
                raise _too_long(name, len(texts), self._inputs, "--max-inputs")

    def check_sequences(self, prompts: int, n: int) -> None:
        """Raises HttpError 400 if a request asks for too many answers in total."""
        if prompts * n > self._sequences:
            asked = f"{prompts} prompts with n={n}" if prompts > 1 else f"n={n}"
            text = f"{asked} ask for {prompts * n} answers; the limit is {self._sequences} (set by --max-sequences)"
            raise invalid(text, "n" if n > 1 else "prompt")

    def describe(self, schema: dict[str, Any]) -> None:
        """Writes the bounds and defaults into the schema of a request body."""
        properties, required = schema.get("properties", {}), schema.get("required", ())
        for name, (low, high) in self.of(properties).items():
            field = properties[name]
            number = field if name in required else field["anyOf"][0]
            number["minimum"] = low
            if not (self._cuts and name in _ANSWER_TOKENS):
                number["maximum"] = high
        for name in (self._defaults.keys() & properties.keys()).difference(required):
            properties[name]["default"] = self._defaults[name]
        texts = ((name, self._inputs) for name in _TEXTS)
        for name, most in (("prompt", self._prompts), *((stops, self._stops) for stops in _STOPS), *texts):
            for member in properties.get(name, {}).get("anyOf", ()):
                if member.get("items", {}).get("type") in ("string", "array"):
                    member["maxItems"] = most


def check_bounds(given: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raises HttpError 400 for a number out of its bounds. The declaration refuses other types."""
    for name, (low, high) in bounds.items():
        value = given.get(name)
        if value is not None and type(value) in _NUMBERS and not low <= value <= high:
            flag = _FLAGS[name][value > high]
            setting = f" (set by {flag})" if flag else ""
            text = f"{name} must be between {_shown(low)} and {_shown(high)}, not {_shown(value)}{setting}"
            raise invalid(text, name)


def _is_above(value: Any, most: int) -> bool:
    return type(value) is int and value > most


def _with_fitting_budget(given: Mapping[str, Any], cut: dict[str, Any]) -> dict[str, Any]:
    """The `cut` body, without a thinking budget that only the client's `max_tokens` allowed.

    Anthropic's smallest budget is 1024, so it cannot always be lowered. Without one, the thought
    may take the whole answer.
    """
    thinking = cut.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        return cut
    budget, switch = thinking.get("budget_tokens"), cut.get("chat_template_kwargs") or {}
    fitted = not _is_above(budget, cut["max_tokens"] - 1) or _is_above(budget, given["max_tokens"] - 1)
    if fitted or not isinstance(switch, dict):
        return cut
    rest = {name: value for name, value in thinking.items() if name != "budget_tokens"}
    kwargs = {"enable_thinking": True} | switch
    return cut | {"thinking": rest | {"type": "adaptive"}, "chat_template_kwargs": kwargs}


def _too_long(name: str, count: int, most: int, flag: str) -> Exception:
    return invalid(f"{name} has {count} entries; the limit is {most} (set by {flag})", name)


def _shown(number: float) -> str:
    if isinstance(number, float):
        return f"{number:g}"
    return str(number) if abs(number) < 1 << 64 else "a larger number"
