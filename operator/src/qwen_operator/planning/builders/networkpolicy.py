"""The NetworkPolicy."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_operator.api import QwenService
from qwen_operator.api.names import PORT_NAME, selector_labels
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.common import child


def build_network_policy(service: QwenService, operator_namespace: str, scrapers: Sequence[Object] = ()) -> Object:
    """The NetworkPolicy.

    The given peers, the scrapers and the operator reach the server's port, and no other port.
    """
    peers = [peer.to_dict() for peer in service.spec.network_policy.from_] or [{"podSelector": {}}]
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        # No value of the chart changes these labels, unlike the name, which nameOverride changes.
        "podSelector": {
            "matchLabels": {"app.kubernetes.io/part-of": "qwen-vllm", "app.kubernetes.io/component": "operator"}
        },
    }
    return child(
        service,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        spec={
            "podSelector": {"matchLabels": selector_labels(service.name)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [*peers, *scrapers, operator], "ports": [{"port": PORT_NAME, "protocol": "TCP"}]}],
        },
    )
