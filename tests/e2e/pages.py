"""Pages of servers, as clients in the cluster's network read them."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from tests.cluster.settings import Settings
from tests.cluster.shell import output
from tests.e2e.kubectl import Object

SECONDS = 10
_CURL = ("curl", "--silent", "--max-time", str(SECONDS))


def pod_url(pod: Object) -> str:
    """The URL of the server in a pod."""
    return f"http://{pod['status']['podIP']}:8000"


def page(cluster: Settings, url: str) -> str:
    """A page. Raises Problem if the answer is no success."""
    return output([*cluster.nsenter(), *_CURL, "--fail", url], timeout=2 * SECONDS)


def json_page(cluster: Settings, url: str) -> dict[str, Any]:
    """A page of JSON. Raises Problem if the answer is no success."""
    found: dict[str, Any] = json.loads(page(cluster, url))
    return found


def status(cluster: Settings, url: str) -> int:
    """The status of the answer to a request for a page; 0 if there is none."""
    command = [*cluster.nsenter(), *_CURL, "--output", "/dev/null", "--write-out", "%{http_code}", url]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS, check=False).stdout or 0)


def total(text: str, name: str) -> float:
    """The sum of a metric over its labels, in a page in Prometheus's format that must have it."""
    values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", text, re.MULTILINE)
    assert values, f"the page has no {name}"
    return sum(map(float, values))
