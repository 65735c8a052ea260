"""spec.gpu."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qwen_operator.api.base import ApiObject, ObjectName, ValidationRule, Word, map_list

_RESOURCE = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_CLAIM_SOURCES = ("resourceClaimName", "resourceClaimTemplateName")


class GpuClaim(ApiObject):
    """A ResourceClaim of the pod: GPUs that a driver allocates dynamically (Kubernetes 1.34)."""

    checks = (
        ValidationRule(
            f"[{', '.join(f'has(self.{name})' for name in _CLAIM_SOURCES)}].filter(given, given).size() == 1",
            f"exactly one of {', '.join(_CLAIM_SOURCES)} must be set",
            lambda claim: (claim.resource_claim_name is None) != (claim.resource_claim_template_name is None),
        ),
    )

    name: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] = Field(
        description="Name of the claim within the pod."
    )
    resource_claim_name: ObjectName | None = Field(
        default=None, description="Name of a ResourceClaim that all pods share."
    )
    resource_claim_template_name: ObjectName | None = Field(
        default=None, description="Name of a ResourceClaimTemplate, from which each pod gets a claim of its own."
    )
    request: Word | None = Field(
        default=None, description="The request of the claim that the server uses. Defaults to all of them."
    )


class GpuSpec(ApiObject):
    """The GPUs of one replica."""

    checks = (
        ValidationRule(
            "!has(self.count) || !has(self.resourceClaims) || self.resourceClaims.size() == 0",
            "count must not be set with resourceClaims: the claims say which GPUs a replica gets",
            lambda gpu: gpu.count is None or not gpu.resource_claims,
            "count",
        ),
    )

    count: int | None = Field(
        default=None,
        ge=0,
        le=1024,
        description="GPUs per replica. Defaults to tensorParallelSize x pipelineParallelSize, and to 0 on a CPU. Not "
        "requested with resourceClaims.",
    )
    resource_name: Annotated[str, Field(max_length=253, pattern=_RESOURCE)] = Field(
        default="nvidia.com/gpu", description="Name of the extended resource for one GPU."
    )
    resource_claims: list[GpuClaim] = map_list(
        ["name"],
        "Claims of dynamic resource allocation that bring the GPUs of a replica, instead of count. The pod and the "
        "server's container get them.",
        16,
    )
