"""Writes the description to `docs/openapi.json`; with `--check` it writes nothing and exits 1 when
the file differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from qwen_server.api.openapi.document import document
from qwen_server.api.routes.server import tokenizer_router
from qwen_server.app import ADMIN_ROUTERS, ROUTERS
from qwen_server.config.settings import Settings


def text() -> str:
    """The file's content: the description at the default settings."""
    routes = [route for router in (*ROUTERS, tokenizer_router, *ADMIN_ROUTERS) for route in router.routes]
    # Not Settings(), which would read the environment.
    described = document(routes, Settings.model_construct())
    return json.dumps(described, ensure_ascii=False, indent=2) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Writes or checks the file. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python server/tools/generate_openapi.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when the file is out of date")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository")
    given = parser.parse_args(arguments)
    path = given.root / "docs" / "openapi.json"
    if not given.check:
        path.write_text(text(), encoding="utf-8")
    elif not path.is_file() or path.read_text(encoding="utf-8") != text():
        print(f"{path} is out of date: run `make manifests`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
