"""What the operator's settings say about the monitoring of every QwenService."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from qwen_operator.api import QwenServiceSpec

RUNBOOKS: Final = "https://github.com/qwen-vllm/qwen-vllm/blob/main/docs/runbooks"
"""Where the runbooks are published, unless a setting says otherwise."""


@dataclass(frozen=True)
class MonitoringDefaults:
    """What holds for the ServiceMonitor and the PrometheusRule of every QwenService.

    Attributes:
        labels: by which a Prometheus selects them.
        runbooks: the URL of the folder of runbooks.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    runbooks: str = RUNBOOKS

    def labels_for(self, spec: QwenServiceSpec) -> dict[str, str]:
        """The labels for the objects of a service. What is said more specially wins."""
        return {**self.labels, **spec.metadata.labels, **spec.monitoring.labels}

    def runbook(self, page: str) -> str:
        """The URL of a runbook."""
        return f"{self.runbooks.rstrip('/')}/{page}.md"
