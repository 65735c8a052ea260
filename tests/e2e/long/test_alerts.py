"""Alerts for a stall, errors and saturation in Prometheus and in the pod, from begin to end.

The pod evaluates them. Prometheus has each of them with the first evaluation after a scrape, and
loses it likewise, which `Monitored.over` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.demo import Client
from tests.cluster.settings import Settings
from tests.e2e.monitored import Monitored, monitored_service
from tests.e2e.scripted_pods import chat

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SECTIONS: dict[str, Any] = {
    "limits": {"maxConcurrentRequests": 2, "maxQueueSize": 1},
    "alerts": [{"name": "GenerationStalled", "threshold": 3}, {"name": "QueueSaturated", "for": "1s"}],
    # Nothing is restarted: the alerts end because their causes do.
    "remediation": {"rules": [{"alert": name, "action": "Event"} for name in ("GenerationStalled", "HighErrorRate")]},
}
ERROR = '@{"fail": "CUDA error: device-side assert triggered"}'
SLOW = '@{"first": 10}'  # the engine steps, and makes no token for so many seconds
ERROR_SECONDS = 90  # the alert counts the requests of a minute


@pytest.fixture(scope="module")
def monitored(cluster: Settings, client: Client) -> Iterator[Monitored]:
    with monitored_service(cluster, client, **SECTIONS) as found:
        yield found


def test_a_stall_and_a_full_queue_are_seen_until_they_are_over(monitored: Monitored) -> None:
    pod, _ = monitored.pods
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(chat, monitored.cluster, pod, SLOW) for _ in range(3)]
        monitored.begun("QueueSaturated", pod).check("warning")
        monitored.begun("GenerationStalled", pod).check("critical")
    assert [answer.result() for answer in answers] == [[200]] * 3
    monitored.over("QueueSaturated", pod)
    monitored.over("GenerationStalled", pod)


def test_errors_are_seen_until_they_are_over(monitored: Monitored) -> None:
    _, pod = monitored.pods
    assert set(chat(monitored.cluster, pod, ERROR, 25)) == {500}
    monitored.begun("HighErrorRate", pod).check("critical")
    monitored.over("HighErrorRate", pod, ERROR_SECONDS)
