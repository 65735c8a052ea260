"""The entry point. It must be cheap to import, because the engine's processes import it, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the server; never returns."""
    # Imported here, because the engine's processes do not need it.
    from qwen_server.runner import main as run  # noqa: PLC0415

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
