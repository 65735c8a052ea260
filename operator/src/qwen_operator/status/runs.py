"""What the last run of a container says about its end. Pure.

The Events of a pod would say that a probe has ended its container, but not reliably: the kubelet
drops most Events of a pod after the first 25, and each failed probe is one. The status of the
container is always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qwen_operator.api import parse_time

# Exit codes after SIGTERM: the container ended in order, or a signal ended it.
_STOPPED: Final = (0, 137, 143)
_SLACK_SECONDS: Final = 15.0
"""How much later than it should a busy kubelet probes and kills."""

_CALM_SECONDS: Final = 600.0
"""After so long a run the kubelet restarts a container without a back-off."""

# What the API server sets where a probe does not say it.
_DEFAULTS: Final[Mapping[str, int]] = {
    "initialDelaySeconds": 0,
    "periodSeconds": 10,
    "timeoutSeconds": 1,
    "failureThreshold": 3,
}
_GRACE: Final = 30
"""Seconds that a pod has to end if its spec does not say it."""


def missed_start(pod: Mapping[str, Any], name: str, last: Mapping[str, Any], unready_since: str) -> int | None:
    """The seconds that the startup probe of a container allows, if the kubelet has ended the last
    run because they were over; None otherwise.

    `last` is how that run ended, and `unready_since` the time from which on not all containers of
    the pod were ready. If one of them never is, a run that served is taken for one that did not
    start if it was as long as a start may be.
    """
    probe, seconds = _startup_probe(pod, name), _seconds(last)
    stopped = last.get("exitCode", 0) in _STOPPED and last.get("reason") != "OOMKilled"
    served = not unready_since or unready_since > (last.get("startedAt") or "")
    if probe is None or seconds is None or not stopped or served:
        return None
    spec, delay = pod.get("spec") or {}, probe["initialDelaySeconds"]
    period, failures = probe["periodSeconds"], probe["failureThreshold"]
    grace: int = probe.get("terminationGracePeriodSeconds") or spec.get("terminationGracePeriodSeconds", _GRACE)
    # The first probe comes within a period, and one without an answer may take longer than that.
    # Times are in whole seconds.
    shortest = delay + (failures - 1) * period - 1
    longest = delay + failures * max(period, probe["timeoutSeconds"]) + period + grace + _SLACK_SECONDS
    return delay + failures * period if shortest <= seconds <= longest else None


def ends_again(container: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Whether a container has ended at least twice in a short time, whatever its exit code."""
    state, seconds = container.get("state") or {}, _seconds(last)
    if (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff":
        return True
    ends: int = container.get("restartCount", 0) + ("terminated" in state)
    return ends >= 2 and seconds is not None and seconds < _CALM_SECONDS


def _startup_probe(pod: Mapping[str, Any], name: str) -> Mapping[str, int] | None:
    spec = pod.get("spec") or {}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        if container["name"] == name and container.get("startupProbe"):
            return {**_DEFAULTS, **container["startupProbe"]}
    return None


def _seconds(last: Mapping[str, Any]) -> float | None:
    """How long a container ran."""
    began, ended = parse_time(last.get("startedAt")), parse_time(last.get("finishedAt"))
    return None if began is None or ended is None else (ended - began).total_seconds()
