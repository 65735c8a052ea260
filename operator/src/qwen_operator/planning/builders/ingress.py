"""The Ingress to the Service."""

from __future__ import annotations

from qwen_operator.api import QwenService
from qwen_operator.api.exposure import IngressSpec
from qwen_operator.api.names import PORT_NAME, child_name
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.common import child


def build_ingress(service: QwenService, ingress: IngressSpec) -> Object:
    """The Ingress. All paths go to the Service, because the server knows its own."""
    backend = {"service": {"name": child_name(service.name), "port": {"name": PORT_NAME}}}
    http = {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}
    hosts = list(ingress.hosts)
    spec: Object = {"rules": [{"host": host, "http": http} for host in hosts] or [{"http": http}]}
    if ingress.class_name:
        spec["ingressClassName"] = ingress.class_name
    if ingress.tls_secret_name:
        certificate: Object = {"secretName": ingress.tls_secret_name}
        spec["tls"] = [{**certificate, "hosts": hosts} if hosts else certificate]
    return child(service, "networking.k8s.io/v1", "Ingress", annotations=ingress.annotations, spec=spec)
