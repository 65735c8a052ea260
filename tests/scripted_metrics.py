"""The program with a scripted engine, whose metrics can be replaced while it serves.

`python -m tests.scripted_metrics --port 8000 ...`: as long as the file that SCRIPTED_METRICS names
exists, its content is the answer to `/api/v1/metrics`. An empty file means a 500.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from qwen_server import app as real
from qwen_server.runner import main
from tests.scripted_engine import engine_of

METRICS = "/api/v1/metrics"


class Replaced:
    """ASGI middleware that answers requests for the metrics with a file, if it exists."""

    def __init__(self, app: ASGIApp, file: Path) -> None:
        self._app = app
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers itself, or lets the application answer."""
        answer: ASGIApp = self._app
        if scope.get("path") == METRICS and self._file.exists():
            content = self._file.read_bytes()
            answer = Response(content, 200 if content else 500, media_type="application/json")
        await answer(scope, receive, send)


def patch(file: Path) -> None:
    """Lets the program make applications whose metrics the file replaces."""
    create = real.create_app

    def create_replaced(*arguments: Any, **options: Any) -> Any:
        app = create(*arguments, **options)
        app.add_middleware(Replaced, file=file)
        return app

    real.create_app = create_replaced


if __name__ == "__main__":
    patch(Path(os.environ["SCRIPTED_METRICS"]))
    main(sys.argv[1:], engine_of)
