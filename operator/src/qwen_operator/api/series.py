"""The labels by which the operator's metrics name a QwenService."""

from __future__ import annotations

from qwen_operator.api.names import child_name
from qwen_operator.api.objects import Key


def labels_of(key: Key) -> tuple[str, str, str]:
    """The labels `namespace`, `service` and `qwenservice`.

    `service` is the Kubernetes Service, as in the metrics of the pods. It differs from the name of
    the QwenService if that has dots, and only `service` can join the two programs' metrics.
    """
    return key[0], child_name(key[1]), key[1]
