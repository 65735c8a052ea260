"""What a request and its answer say, for the log: only with --log-prompts."""

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
    """The beginnings of what was asked and of each choice of the answer."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        asked = next((body[name] for name in _ASKED if body.get(name) is not None), "")
        text = asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)
        self._asked = text[:MAX_CHARACTERS]
        self._choices: dict[int, str] = {}

    def add(self, output: Output) -> None:
        """The engine's next gains."""
        for delta in output.deltas:
            known = self._choices.get(delta.index, "")
            self._choices[delta.index] = known + delta.text[: MAX_CHARACTERS - len(known)]

    def tell(self) -> None:
        """Writes the line. Quoted, so that no text can forge another one."""
        answers = [self._choices[index] for index in sorted(self._choices)]
        _log.info("prompt %r answer %r", self._asked, answers)
