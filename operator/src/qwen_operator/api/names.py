"""Names, labels and annotations of everything that the operator creates."""

from __future__ import annotations

import hashlib
from typing import Final

from qwen_operator.api.qwenservice import GROUP

MAX_NAME: Final = 63
FIELD_MANAGER: Final = "qwen-operator"
CONTAINER: Final = "server"
SERVED_NAME_FLAG: Final = "--served-model-name="
"""The argument of the server with the name of the model in the API."""
PORT_NAME: Final = "http"
PORT: Final = 8000

SERVICE_LABEL: Final = f"{GROUP}/service"
DOWNLOAD_LABEL: Final = f"{GROUP}/download"
"""On a pod that downloads the model of a service. It does not belong to the pods that serve."""
JOB_NAME_LABEL: Final = "batch.kubernetes.io/job-name"
"""Kubernetes gives it to the pods of a Job."""
READINESS_GATE: Final = f"{GROUP}/slo-ready"
RESTART_ANNOTATION: Final = f"{GROUP}/restart"
RESTART_ENGINE_ANNOTATION: Final = f"{GROUP}/restart-engine"
CONFIG_HASH_ANNOTATION: Final = f"{GROUP}/config-hash"
RESET_BUDGET_ANNOTATION: Final = f"{GROUP}/reset-restart-budget"
TEMPLATE_HASH_ANNOTATION: Final = f"{GROUP}/template-hash"
SPEC_HASH_ANNOTATION: Final = f"{GROUP}/spec-hash"
OPERATOR_VERSION_ANNOTATION: Final = f"{GROUP}/operator-version"
APPLIED_TEMPLATE_ANNOTATION: Final = f"{GROUP}/applied-template"
APPLIED_HASH_ANNOTATION: Final = f"{GROUP}/applied-hash"

CLAIM_NOT_FOUND: Final = "ResourceClaimNotFound"
"""Reason of a record among the Events of a pod. Nobody writes an Event about a missing claim."""


def child_name(service: str, suffix: str = "") -> str:
    """`<service>` or `<service>-<suffix>`.

    What is too long for a DNS label is cut and gets a hash.
    """
    full = f"{service}-{suffix}" if suffix else service
    label = full.replace(".", "-")
    if label[0].isdigit():  # the name of a Service must begin with a letter
        label = f"qwen-{label}"
    if label == full and len(full) <= MAX_NAME:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    tail = f"-{digest}-{suffix}" if suffix else f"-{digest}"
    return label[: MAX_NAME - len(tail)].rstrip("-") + tail


def label_value(service: str) -> str:
    """The service's name as a label value."""
    return child_name(service)


def selector_labels(service: str) -> dict[str, str]:
    """The labels that select a service's pods. They are immutable in a Deployment."""
    return {"app.kubernetes.io/name": "qwen-server", SERVICE_LABEL: label_value(service)}


def child_labels(service: str) -> dict[str, str]:
    """The labels of every child and pod.

    `app.kubernetes.io/instance` is none of them: by it Argo CD knows the objects of an application,
    and it would prune a cache claim that is kept and has no owner.
    """
    return {
        "app.kubernetes.io/managed-by": "qwen-operator",
        "app.kubernetes.io/part-of": "qwen-vllm",
        **selector_labels(service),
    }


def selector_string(service: str) -> str:
    """The selector as text, for the scale subresource and list calls."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector_labels(service).items()))


def service_url(service: str, namespace: str, port: int) -> str:
    """The URL of the service for clients inside the cluster."""

    return f"http://{child_name(service)}.{namespace}.svc:{port}"
