"""The bounds and defaults that the settings give to a body.

They are an explicit step, so that the declarations are the same in every server.

The table checks requests and is written into the API's description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_server.config.settings import Settings
from qwen_server.http.error_bodies import invalid

_NUMBERS = frozenset({int, float})


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
        self._prompts = settings.max_prompts
        self._sequences = settings.max_sequences
        self._defaults = {
            "max_tokens": settings.default_max_tokens,
            "max_output_tokens": settings.default_max_tokens,
            "temperature": settings.default_temperature,
        }

    def of(self, names: frozenset[str]) -> Mapping[str, tuple[float, float]]:
        """The bounds of those parameters that are among `names`."""
        return {name: bounds for name, bounds in self._bounds.items() if name in names}

    def check_prompts(self, given: Mapping[str, Any]) -> None:
        """Raises HttpError 400 for too many prompts, before each of them is looked at."""
        prompt = given.get("prompt")
        if isinstance(prompt, list) and len(prompt) > self._prompts and type(prompt[0]) is not int:
            raise invalid(f"prompt has {len(prompt)} entries; the limit is {self._prompts}", "prompt")

    def check_sequences(self, prompts: int, n: int) -> None:
        """Raises HttpError 400 if a request asks for too many answers in total."""
        if prompts * n > self._sequences:
            asked = f"{prompts} prompts with n={n}" if prompts > 1 else f"n={n}"
            text = f"{asked} ask for {prompts * n} answers; the limit of a request is {self._sequences}"
            raise invalid(text, "n" if n > 1 else "prompt")

    def describe(self, schema: dict[str, Any]) -> None:
        """Writes the bounds and defaults into the schema of a request body."""
        properties, required = schema.get("properties", {}), schema.get("required", ())
        for name in self._bounds.keys() & properties.keys():
            field = properties[name]
            low, high = self._bounds[name]
            (field if name in required else field["anyOf"][0]).update({"minimum": low, "maximum": high})
        for name in (self._defaults.keys() & properties.keys()).difference(required):
            properties[name]["default"] = self._defaults[name]
        for prompts in properties.get("prompt", {}).get("anyOf", ()):
            if prompts.get("items", {}).get("type") in ("string", "array"):
                prompts["maxItems"] = self._prompts


def check_bounds(given: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raises HttpError 400 for a number out of its bounds. The declaration refuses other types."""
    for name, (low, high) in bounds.items():
        value = given.get(name)
        if value is not None and type(value) in _NUMBERS and not low <= value <= high:
            shown = f"{value:g}" if isinstance(value, float) else value if abs(value) < 1 << 64 else "a larger number"
            raise invalid(f"{name} must be between {low:g} and {high:g}, not {shown}", name)
