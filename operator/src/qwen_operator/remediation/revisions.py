"""The newest revision of a service's pods. It is read only where pods are of several ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from qwen_operator.api.names import selector_string
from qwen_operator.api.objects import Key, Object, is_owned_by
from qwen_operator.kube.client import MAX_BODY, KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.resources import REPLICA_SETS
from qwen_operator.remediation.views import newest_revision
from qwen_operator.status.revisions import revision_of

logger = logging.getLogger(__name__)

MAX_REPLICA_SETS: Final = 100
"""ReplicaSets of a service that are read. A Deployment keeps ten that have no pods."""
READ_SECONDS: Final = 10.0


async def newest_hash(kube: KubeClient, key: Key, deployment: Object | None) -> str | None:
    """The pod-template-hash of the newest ReplicaSet of a service's Deployment.

    None if it has none or is not known: the ReplicaSets cannot be read, or somebody has made so
    many with the service's labels that the newest one may not be among them.
    """
    where = {"namespace": key[0], "service": key[1]}
    try:
        found = await kube.first(
            REPLICA_SETS,
            key[0],
            selector=selector_string(key[1]),
            limit=MAX_REPLICA_SETS + 1,
            most=MAX_BODY,
            timeout=READ_SECONDS,
        )
    except KubeError as error:
        logger.warning("reading the ReplicaSets failed: %s", error, extra=where)
        return None
    if len(found) > MAX_REPLICA_SETS:
        logger.warning("the service has more than %d ReplicaSets", MAX_REPLICA_SETS, extra=where)
        return None
    owner = "" if deployment is None else deployment["metadata"]["uid"]
    return newest_revision([item for item in found if is_owned_by(item, owner)])


class Revisions:
    """The newest revisions, for the status. One is read once for each state of a Deployment."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._known: dict[Key, tuple[Any, str | None]] = {}

    async def newest(self, key: Key, pods: Sequence[Object], deployment: Object | None) -> str | None:
        """The pod-template-hash of the newest revision.

        None if it is not known, or makes no difference: all pods are of one.
        """
        if deployment is None or len({revision_of(pod) for pod in pods}) < 2:
            return None
        metadata, seen = deployment["metadata"], (deployment.get("status") or {}).get("observedGeneration")
        state = (metadata["uid"], metadata.get("generation"))
        known = self._known.get(key)
        if known is not None and known[0] == state:
            return known[1]
        found = await newest_hash(self._kube, key, deployment)
        if found is not None and seen == metadata.get("generation"):  # else its ReplicaSet may be missing yet
            self._known[key] = (state, found)
        return found

    def forget(self, key: Key) -> None:
        """Drops what is known of a service that was deleted."""
        self._known.pop(key, None)
