"""What the operator looks up in the rest of the cluster: Prometheus objects, with the namespaces
that they select, and IngressClasses.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from qwen_operator.api.objects import Object
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import ForbiddenError, KubeError, NotFoundError
from qwen_operator.kube.resources import INGRESS_CLASSES, NAMESPACES, PROMETHEUSES, Resource

logger = logging.getLogger(__name__)

_DEFAULT_CLASS: Final = "ingressclass.kubernetes.io/is-default-class"
_SELECTORS: Final = (
    "serviceMonitorSelector",
    "serviceMonitorNamespaceSelector",
    "ruleSelector",
    "ruleNamespaceSelector",
)


class Surroundings:
    """Objects of others that planning takes into account. They are read, not watched.

    Attributes:
        prometheuses: the Prometheus objects with their selectors. None if there are none, or if the
            operator may not list them: others may read ServiceMonitors, too.
        namespaces: the labels of all namespaces, by name. Empty if no Prometheus object asks for
            them, or if the operator may not list namespaces.
        ingress_classes: the names of the IngressClasses, and whether they are the default. None if
            they are not known.
    """

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._listed: dict[Resource, Sequence[Object] | None] = {}
        self.prometheuses: Sequence[Object] | None = None
        self.namespaces: Mapping[str, Mapping[str, str]] = {}
        self.ingress_classes: Mapping[str, bool] | None = None

    async def look(self) -> bool:
        """Reads the objects. Returns whether something has changed."""
        before = (self.prometheuses, self.namespaces, self.ingress_classes)
        found = await self._list(PROMETHEUSES)
        self.prometheuses = [_reduced(item) for item in found] if found else None
        asked = any(_asks_for_labels(prometheus) for prometheus in self.prometheuses or ())
        namespaces = await self._list(NAMESPACES) if asked else None
        self.namespaces = {_name(item): dict(item["metadata"].get("labels") or {}) for item in namespaces or ()}
        classes = await self._list(INGRESS_CLASSES)
        self.ingress_classes = None if classes is None else {_name(item): _is_default(item) for item in classes}
        return before != (self.prometheuses, self.namespaces, self.ingress_classes)

    async def _list(self, resource: Resource) -> Sequence[Object] | None:
        """The objects of a kind in all namespaces.

        The last known ones if the API server fails, or denies it: it may do so for a moment.
        """
        try:
            self._listed[resource], _ = await self._kube.list(resource)
        except NotFoundError:
            self._listed[resource] = None
        except KubeError as error:
            if not isinstance(error, ForbiddenError):
                logger.warning("listing %s failed: %s", resource.plural, error)
        return self._listed.get(resource)


def _reduced(prometheus: Object) -> Object:
    """What matters of a Prometheus object."""
    metadata = prometheus["metadata"]
    spec = prometheus.get("spec") or {}
    return {
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": {name: spec[name] for name in _SELECTORS if name in spec},
    }


def _asks_for_labels(prometheus: Object) -> bool:
    """Whether a Prometheus object selects namespaces by their labels."""
    return any(prometheus["spec"].get(name) for name in _SELECTORS if name.endswith("NamespaceSelector"))


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _is_default(ingress_class: Object) -> bool:
    annotations = ingress_class["metadata"].get("annotations") or {}
    return bool(annotations.get(_DEFAULT_CLASS) == "true")
