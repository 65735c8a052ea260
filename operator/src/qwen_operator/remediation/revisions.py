"""The newest revision of a service's pods. It is read only while a rollout replaces them."""

from __future__ import annotations

import logging
from typing import Final

from qwen_operator.api.names import selector_string
from qwen_operator.api.objects import Key, Object, is_owned_by
from qwen_operator.kube.client import MAX_BODY, KubeClient
from qwen_operator.kube.errors import KubeError
from qwen_operator.kube.resources import REPLICA_SETS
from qwen_operator.remediation.views import newest_revision

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
