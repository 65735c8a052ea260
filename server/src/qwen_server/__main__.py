"""The entry point. It must be cheap to import, because the engine's processes import it, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the server, or with `download` as the first argument a download; never returns."""
    # Imported here, because the engine's processes do not need it.
    if sys.argv[1:2] == ["download"]:
        from qwen_server.download.command import main as download  # noqa: PLC0415

        download(sys.argv[2:])
    from qwen_server.runner import main as run  # noqa: PLC0415

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
