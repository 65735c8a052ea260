"""The Events of a hung engine in docs/operations.md are those that the operator writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from qwen_operator.remediation.outlook import Outlook
from qwen_operator.remediation.steps import BeginRestart, CloseGate, ExecuteRestart, FinishRestart, OpenGate
from qwen_operator.remediation.values import Evidence
from tests.unit.qwen_operator.test_outlook import HUNG, REPORTED
from tests.unit.qwen_operator.test_remediation_act import POD, START, Cluster, intent_at

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CONDITIONS = (ROOT / "operator" / "src" / "qwen_operator" / "status" / "conditions.py").read_text(encoding="utf-8")
REMEDIATION = ("TakenOutOfRotation", "RestartDecided", "RestartedInPlace", "BackInRotation", "RestartRecovered")


class Event(NamedTuple):
    """An Event of the QwenService. The name of its pod is POD, and each time is TIME."""

    type: str
    reason: str
    text: str


def plain(text: str) -> str:
    """A text without what differs from incident to incident."""
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", re.sub(r"\bnews-\w+-\w+\b|\bp0\b", "POD", text))


def shown() -> list[Event]:
    """The Events in the guide."""
    [block] = re.findall(r"^```\nType +Reason +Age +Message\n-.*?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    rows = [re.split(r" {2,}", line, maxsplit=3) for line in block.splitlines()]
    return [Event(kind, reason, plain(text)) for kind, reason, _, text in rows]


async def test_the_events_of_remediation_are_shown_in_order_and_word_for_word() -> None:
    cluster = Cluster()
    cluster.error = None
    cluster.evidence = {"u0": Evidence(1.0, frozenset({HUNG}), body=json.dumps({"alerts": [REPORTED]}).encode())}
    intent = intent_at(START, alert=HUNG, method="InPlace")
    next_step = Outlook("It is restarted at 2026-01-01T00:00:20Z unless it recovers.")
    await cluster.perform(CloseGate(POD, HUNG), outlooks={"u0": next_step})
    await cluster.perform(BeginRestart(POD, intent))
    await cluster.perform(ExecuteRestart(POD, intent, hung=True))
    await cluster.perform(OpenGate(POD, "Restarted", HUNG))
    await cluster.perform(FinishRestart(intent, "Recovered"))
    written = [
        Event(found.type, found.reason, plain(found.text))
        for found in cluster.recorder._pending["n"]
        if found.subject.kind == "QwenService"
    ]
    assert [event.reason for event in written] == list(REMEDIATION)
    assert [event for event in shown() if event.reason in REMEDIATION] == written


def test_the_events_of_conditions_are_shown_word_for_word() -> None:
    others = [event for event in shown() if event.reason not in REMEDIATION]
    assert {event.reason for event in others} == {
        HUNG, "MinimumReplicasUnavailable", "AvailabilityPending", "AsExpected", "Complete", "MinimumReplicasAvailable",
    }  # fmt: skip
    for event in others:
        change, _, message = event.text.partition(": ")
        assert re.fullmatch(r"(?:Available|Progressing|Degraded)=(?:True|False)", change)
        assert event.reason in (HUNG, message) or f'"{message}"' in CONDITIONS
    [out] = [event.text for event in others if event.reason == HUNG]
    [left] = [event.text for event in shown() if event.reason == "TakenOutOfRotation"]
    # The condition says the same as the Event about the pod.
    assert re.findall(r"\(.*$", out) == re.findall(r"\(.*$", left)
