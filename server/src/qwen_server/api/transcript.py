"""Logs the text of a request and its answer. Used only with --log-prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from qwen_server.engine.base import Output

MAX_CHARACTERS = 4000
_ASKED = ("messages", "prompt", "input")

_log = logging.getLogger(__name__)


class Transcript:
    """The first 4,000 characters of the prompt and of each choice of the answer."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        asked = next((body[name] for name in _ASKED if body.get(name) is not None), "")
        text = asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)
        self._asked = text[:MAX_CHARACTERS]
        self._choices: dict[int, str] = {}

    def add(self, output: Output) -> None:
        """Adds the engine's next output."""
        for delta in output.deltas:
            known = self._choices.get(delta.index, "")
            self._choices[delta.index] = known + delta.text[: MAX_CHARACTERS - len(known)]

    def log(self) -> None:
        """Writes the log line. The texts are quoted, so that they cannot forge another line."""
        answers = [self._choices[index] for index in sorted(self._choices)]
        _log.info("prompt %r answer %r", self._asked, answers)
