"""The Service in front of the replicas, and the HTTPRoute to the Service."""

from __future__ import annotations

from qwen_operator.api import QwenService
from qwen_operator.api.exposure import RouteSpec
from qwen_operator.api.names import PORT_NAME, child_name, selector_labels
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.common import child


def build_service(service: QwenService) -> Object:
    """The Service. Only ready pods get traffic.

    The API server fills in the IP families, which are those of the cluster.
    """
    exposure = service.spec.service
    port = {
        "name": PORT_NAME,
        "port": exposure.port,
        "targetPort": PORT_NAME,
        "protocol": "TCP",
        "appProtocol": "http",
    }
    return child(
        service,
        "v1",
        "Service",
        annotations=exposure.annotations,
        spec={
            "type": exposure.type,
            "ipFamilyPolicy": exposure.ip_family_policy,
            "selector": selector_labels(service.name),
            "ports": [port],
        },
    )


def build_http_route(service: QwenService, route: RouteSpec) -> Object:
    """The HTTPRoute. It has no timeout: the server has deadlines, and streams may be long."""

    backend = {"name": child_name(service.name), "port": service.spec.service.port}
    spec: Object = {
        "parentRefs": [parent.to_dict() for parent in route.parent_refs],
        "rules": [{"backendRefs": [backend]}],
    }
    if route.hostnames:
        spec["hostnames"] = list(route.hostnames)
    return child(service, "gateway.networking.k8s.io/v1", "HTTPRoute", spec=spec)
