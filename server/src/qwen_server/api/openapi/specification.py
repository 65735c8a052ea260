"""The code blocks of the API specification, verbatim from specification.md.

They are the examples in the OpenAPI document, and the tests run the commands unchanged.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_TEXT = Path(__file__).with_name("specification.md").read_text(encoding="utf-8")
(
    _,  # the request line of a chat
    CHAT_COMMAND,
    CHAT_ANSWER,
    _,  # the request line of a completion
    COMPLETION_COMMAND,
    COMPLETION_ANSWER,
    HEALTH_COMMAND,
    HEALTH_ANSWER,
    METRICS_COMMAND,
    METRICS_ANSWER,
    PROMETHEUS_COMMAND,
    PROMETHEUS_ANSWER,
    QUEUE_FULL_ANSWER,
    OUT_OF_MEMORY_ANSWER,
    PYTHON_EXAMPLE,
) = re.findall(r"^```\w*\n(.*?)^```$", _TEXT, re.MULTILINE | re.DOTALL)


def body_of(command: str) -> dict[str, Any]:
    """Returns the JSON body that a curl command sends with `-d`."""
    body: dict[str, Any] = json.loads(command.split("-d '")[1].rsplit("'", 1)[0])
    return body
