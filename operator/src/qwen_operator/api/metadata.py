"""Labels and annotations that a QwenService gives to its children, and the changes to its pods."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import Field

from qwen_operator.api.base import ApiObject, ValidationRule, section
from qwen_operator.api.core import Labels

# The operator finds its children by these labels, so its own values would win.
RESERVED_LABELS: Final = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/part-of",
    "qwen-vllm.io/service",
)
RESERVED_PREFIX: Final = "qwen-vllm.io/"

LABELS_RULE: Final = ValidationRule(
    f"!{list(RESERVED_LABELS)}.exists(key, key in self)",
    f"must not contain {', '.join(RESERVED_LABELS)}: the operator sets them",
    lambda labels: not any(key in labels for key in RESERVED_LABELS),
)
ANNOTATIONS_RULE: Final = ValidationRule(
    f"!self.exists(key, key.startsWith('{RESERVED_PREFIX}'))",
    f"must not contain keys that begin with {RESERVED_PREFIX}: they belong to the operator",
    lambda annotations: not any(key.startswith(RESERVED_PREFIX) for key in annotations),
)

_DNS_NAME: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


def _keys_rule(prefix: str) -> ValidationRule:
    """The form of Kubernetes for the keys of labels and annotations."""
    form = f"({prefix}/)?{_NAME}"
    return ValidationRule(
        f"self.all(key, key.matches(r'^({form})$'))",
        "must have keys such as team or example.com/team: up to 63 letters, digits, -, _ and ., with a letter or digit "
        "at both ends, and before them an optional DNS name with /",
        lambda pairs: all(re.fullmatch(form, key) for key in pairs),
    )


OwnLabels = Annotated[Labels, LABELS_RULE, _keys_rule(_DNS_NAME)]
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]],
    ANNOTATIONS_RULE,
    # The API server accepts upper case only here.
    _keys_rule(_DNS_NAME.replace("a-z", "A-Za-z")),
]


class ChildMetadata(ApiObject):
    """Labels and annotations of everything that the operator creates."""

    labels: OwnLabels = Field(
        default_factory=dict, max_length=64, description="Additional labels of every object, pods included."
    )
    annotations: Annotations = Field(
        default_factory=dict, max_length=64, description="Additional annotations of every object, pods included."
    )


class TemplateMetadata(ApiObject):
    """Metadata of the pods."""

    labels: OwnLabels = Field(default_factory=dict, max_length=64, description="Additional labels of the pods.")
    annotations: Annotations = Field(
        default_factory=dict, max_length=64, description="Additional annotations of the pods."
    )


class PodTemplate(ApiObject):
    """Changes to the pod template, applied last."""

    metadata: TemplateMetadata = section(TemplateMetadata, "Additional labels and annotations of the pods.")
    # The CRD gets the schema of Kubernetes' PodSpec (operator/tools/pod_schema.py).
    spec: dict[str, Any] = Field(
        default_factory=dict,
        description="A partial PodSpec of Kubernetes that is merged into the pod template. Containers, env, volumes, "
        "mounts and ports merge by key, other lists are replaced. null removes a field, `$patch: delete` removes an "
        "item, `$patch: replace` replaces an object. The server's container is called `server`.",
    )
