"""A context that is too short for the warm-up's own requests is no reason not to start."""

from __future__ import annotations

from typing import Any, cast

import pytest

from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import ConfigurationError
from qwen_server.engine.base import InvalidRequestError
from qwen_server.engine.vllm.warmup import warm_up


class TooShort:
    """Both paths of an engine that refuses every prompt."""

    def __init__(self) -> None:
        self.asked = 0

    async def refuse(self, *_: Any) -> None:
        self.asked += 1
        raise InvalidRequestError("This model's maximum context length is 4 tokens.")

    prepare_chat = prepare_completion = answer = refuse


async def test_a_warm_up_that_does_not_fit_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    fast, reference = TooShort(), TooShort()
    await warm_up(cast("Any", fast), cast("Any", reference))
    assert (fast.asked > 1, reference.asked) == (True, 1)
    assert "warm-up: This model's maximum context length is 4 tokens." in caplog.text


def test_a_context_without_room_for_an_answer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--max-model-len"):
        load_settings(["--max-model-len=1"])
