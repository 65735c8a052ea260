"""A mirror of the Hugging Face Hub in the cluster's network, for pods that download a model.

`python -m tests.e2e.hub HOST --token T --cut-after N` serves it until it is terminated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.settings import ROOT, Settings
from tests.e2e.kubectl import wait_for
from tests.unit.qwen_server.hub_mirror import serve_mirror

PORT = 8099


@contextmanager
def hub(cluster: Settings, *flags: str) -> Iterator[str]:
    """Runs a mirror with these flags during the block. Yields its URL."""
    url = f"http://{cluster.node_ip}:{PORT}"
    command = [*cluster.nsenter(), sys.executable, "-m", "tests.e2e.hub", cluster.node_ip, *flags]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(lambda: answers(cluster, url), 30, "the mirror does not answer")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


def answers(cluster: Settings, url: str) -> bool:
    asked = [*cluster.nsenter(), "curl", "--silent", "--output", "/dev/null", "--max-time", "2", url]
    return subprocess.run(asked, check=False, timeout=10).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("--token", default="", help="what clients must have")
    parser.add_argument("--cut-after", type=int, help="cut the first answer with weights after so many bytes")
    chosen = parser.parse_args()
    with serve_mirror(chosen.host, PORT) as mirror:
        mirror.token, mirror.cut_after = chosen.token, chosen.cut_after
        threading.Event().wait()


if __name__ == "__main__":
    main()
