"""What the status says about LoRA adapters. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from qwen_operator.api import QwenServiceSpec
from qwen_operator.api.adapters import AdapterSpec
from qwen_operator.api.status import AdapterStatus
from qwen_operator.planning.builders.adapters import source_label
from qwen_operator.planning.plan_warnings import PlanWarning

_MOST: Final = 64
_LONGEST: Final = 300
_MESSAGE: Final = 512


class AdapterReport(NamedTuple):
    """What a pod says about an adapter.

    source: where it comes from. state: loaded, loading or failed; a `reason` says why it failed.
    """

    source: str
    state: str
    reason: str = ""


Reports = Mapping[str, Mapping[str, AdapterReport] | None]
"""What the pods say, by their names. None for a pod that gave no answer."""


def parse_reports(given: Any) -> dict[str, AdapterReport]:
    """The adapters in the metrics of a pod, by name. What is not valid is left out."""
    reports = {}
    for item in given[:_MOST] if isinstance(given, list) else ():
        if not isinstance(item, dict):
            continue
        name, source, state, reason = (item.get(key) for key in ("name", "source", "state", "reason"))
        if isinstance(name, str) and isinstance(source, str) and isinstance(state, str):
            text = reason[:_LONGEST] if isinstance(reason, str) else ""
            reports[name] = AdapterReport(source, state, _printable(text))
    return reports


def adapter_statuses(spec: QwenServiceSpec, reports: Reports) -> list[AdapterStatus]:
    """The adapters of the spec, and how many of its pods have each. `reports` has all pods."""
    return [_status(adapter, reports) for adapter in spec.adapters]


def adapter_warnings(statuses: Sequence[AdapterStatus]) -> list[PlanWarning]:
    """A warning for each adapter that a pod cannot load."""
    return [
        PlanWarning("AdapterFailed", f"The adapter {status.name} is in {status.pods} pods. {status.message}")
        for status in statuses
        if status.reason == "Failed"
    ]


def _status(adapter: AdapterSpec, reports: Reports) -> AdapterStatus:
    expected = source_label(adapter.source)
    seen = {pod: None if found is None else found.get(adapter.name) for pod, found in sorted(reports.items())}
    # A pod that has not read the change yet tells of what was declared before.
    current = {pod: report for pod, report in seen.items() if report is not None and report.source == expected}
    loaded = sum(report.state == "loaded" for report in current.values())
    failed = [(pod, report.reason) for pod, report in current.items() if report.state == "failed"]
    silent = [pod for pod, found in sorted(reports.items()) if found is None]
    reason, message = "Loading", ""
    if failed:
        reason, message = "Failed", f"Pod {failed[0][0]}: {failed[0][1]}"
    elif loaded == len(reports):
        reason = "Loaded" if reports else "Unknown"
    elif silent:
        reason, message = "Unknown", f"Pod {silent[0]} does not answer."
    return AdapterStatus(name=adapter.name, pods=f"{loaded}/{len(reports)}", reason=reason, message=message[:_MESSAGE])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
