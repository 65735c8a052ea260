"""spec.service, spec.route and spec.ingress: how clients reach a service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import ApiObject, ObjectName, OptionalName, ShortText
from qwen_operator.api.metadata import Annotations

Hostname = Annotated[str, Field(max_length=253, pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class ServiceExposure(ApiObject):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Type of the Service."
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Port of the Service.")
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] = Field(
        default="PreferDualStack",
        description="IP families of the Service. PreferDualStack gives it those that the cluster has.",
    )
    annotations: Annotations = Field(default_factory=dict, max_length=64, description="Annotations of the Service.")


class ParentRef(ApiObject):
    """A Gateway that the route attaches to."""

    name: ObjectName = Field(description="Name of the Gateway.")
    namespace: Annotated[str, Field(max_length=63)] | None = Field(
        default=None, description="Namespace of the Gateway. Defaults to that of the QwenService."
    )
    section_name: ShortText | None = Field(default=None, description="Listener. Defaults to all of them.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Port. Defaults to all of them.")


class RouteSpec(ApiObject):
    """An HTTPRoute, created if the Gateway API is installed."""

    hostnames: list[Hostname] = Field(default_factory=list, max_length=16, description="Host names. Empty matches all.")
    parent_refs: list[ParentRef] = Field(min_length=1, max_length=32, description="The Gateways.")


class IngressSpec(ApiObject):
    """An Ingress to the Service."""

    class_name: OptionalName = Field(
        default="", description="Name of the IngressClass. Empty uses the cluster's default."
    )
    hosts: list[Hostname] = Field(default_factory=list, max_length=16, description="Host names. Empty matches all.")
    tls_secret_name: OptionalName = Field(
        default="", description="Name of the Secret with the certificate of the hosts. Empty means no TLS."
    )
    annotations: Annotations = Field(
        default_factory=dict,
        max_length=64,
        description="Annotations of the Ingress, for its controller's settings, such as timeouts.",
    )
