"""spec.autoscaling."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwen_operator.api.base import ApiObject, Duration, ValidationRule, duration_field, from_to, section

Address = Annotated[str, Field(max_length=1024, pattern=r"^https?://[^\s/][^\s]*$")]
PromQuery = Annotated[str, Field(min_length=1, max_length=4096)]


class ScalingTarget(ApiObject):
    """The target of the autoscaler."""

    waiting_requests_per_replica: int = Field(default=5, ge=1, description="Queued requests per replica.")


class AutoscalingSpec(ApiObject):
    """Scaling by load. The autoscaler then owns spec.replicas."""

    checks = (
        ValidationRule(
            "self.maxReplicas >= self.minReplicas",
            "maxReplicas must be at least minReplicas",
            lambda scaling: scaling.max_replicas >= scaling.min_replicas,
            "maxReplicas",
        ),
        ValidationRule(
            "self.scaler != 'HPA' || self.minReplicas >= 1",
            "minReplicas must be at least 1 with the scaler HPA; KEDA can scale to zero",
            lambda scaling: scaling.scaler != "HPA" or scaling.min_replicas >= 1,
            "minReplicas",
        ),
        ValidationRule(
            "self.scaler == 'KEDA' || (!has(self.prometheusAddress) && !has(self.activationQuery))",
            "scaler must be KEDA with prometheusAddress or activationQuery",
            lambda scaling: (
                scaling.scaler == "KEDA" or (scaling.prometheus_address is None and scaling.activation_query is None)
            ),
            "scaler",
        ),
        ValidationRule(
            "self.scaler != 'KEDA' || has(self.prometheusAddress)",
            "prometheusAddress must be set with the scaler KEDA, which asks Prometheus for the load",
            lambda scaling: scaling.scaler != "KEDA" or scaling.prometheus_address is not None,
            "prometheusAddress",
        ),
        ValidationRule(
            "self.scaler != 'KEDA' || (self.minReplicas == 0) == has(self.activationQuery)",
            "activationQuery must be set with minReplicas 0, and only then: no metric of a service without pods can "
            "start one",
            lambda scaling: (
                scaling.scaler != "KEDA" or (scaling.min_replicas == 0) == (scaling.activation_query is not None)
            ),
            "activationQuery",
        ),
    )

    min_replicas: int = Field(
        default=1, ge=0, le=1000, description="Minimum number of replicas. 0 needs the scaler KEDA and activationQuery."
    )
    max_replicas: int = Field(ge=1, le=1000, description="Maximum number of replicas.")
    scaler: Literal["HPA", "KEDA"] = Field(
        default="HPA",
        description="What scales the service. HPA: a HorizontalPodAutoscaler, which needs an adapter that serves the "
        "pods' metrics. KEDA: a ScaledObject, created if KEDA is installed.",
    )
    target: ScalingTarget = section(ScalingTarget, "The target of the autoscaler.")
    scale_down_stabilization: Annotated[Duration, from_to("0s", "1h")] = duration_field(
        "300s", "How long the load must be low before replicas are removed."
    )
    prometheus_address: Address | None = Field(
        default=None,
        description="For KEDA: URL of the Prometheus that scrapes the pods, such as "
        "http://prometheus-operated.monitoring.svc:9090.",
    )
    activation_query: PromQuery | None = Field(
        default=None,
        description="For minReplicas 0: a query of one number that is above 0 while the service is needed, such as "
        "the rate of requests at your gateway. KEDA starts the first replica then.",
    )
