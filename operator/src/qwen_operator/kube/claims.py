"""The claims for a service's cache that users have made themselves (`cache.existingClaim`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Key, Object
from qwen_operator.kube.client import KubeClient
from qwen_operator.kube.errors import KubeError, NotFoundError
from qwen_operator.kube.resources import CLAIMS

logger = logging.getLogger(__name__)

_ENDED: Final = ("Succeeded", "Failed")


@dataclass
class _Known:
    """What was read of a claim, for which generation of the service, and the pods that use it."""

    name: str
    generation: int
    users: frozenset[str]
    claim: Object

    def counts_for(self, name: str, generation: int, users: frozenset[str]) -> bool:
        """Whether it must still be the same claim.

        Kubernetes keeps a claim as long as a pod uses it. So another one can have its name only if
        none of these pods is left.
        """
        same = (self.name, self.generation) == (name, generation)
        return same and (self.users == users or not self.users.isdisjoint(users))


class Claims:
    """Reads the access modes of claims. They never change, so a claim is read once.

    It is read again if the spec has changed or all pods are new, and whenever it is asked for while
    it is missing or being deleted.
    """

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._known: dict[Key, _Known] = {}

    def forget(self, key: Key) -> None:
        """Drops what is known about the claim of a service."""
        self._known.pop(key, None)

    async def of(self, service: QwenService, pods: Sequence[Object]) -> Mapping[str, Object]:
        """The claim that a service names, by its name.

        Empty if it names none, or if its claim is not known. `pods` are those of the service.
        """
        key = (service.namespace, service.name)
        cache = service.spec.cache
        if cache is None or not cache.existing_claim:
            self.forget(key)
            return {}
        name, users = cache.existing_claim, _users(pods)
        known = self._known.get(key)
        if known is not None and known.counts_for(name, service.generation, users):
            known.users = users
            return {name: known.claim}
        try:
            found = await self._kube.get(CLAIMS, name, service.namespace)
        except NotFoundError:
            self.forget(key)
            return {}
        except KubeError as error:
            logger.debug("reading the claim %s failed: %s", name, error)
            return {name: known.claim} if known is not None and known.name == name else {}
        claim = {"spec": {"accessModes": found["spec"].get("accessModes") or []}}
        if "deletionTimestamp" in found["metadata"]:
            self.forget(key)
        else:
            self._known[key] = _Known(name, service.generation, users, claim)
        return {name: claim}


def _users(pods: Sequence[Object]) -> frozenset[str]:
    """The UIDs of the pods that use their volumes: those that have not ended."""
    return frozenset(pod["metadata"]["uid"] for pod in pods if (pod.get("status") or {}).get("phase") not in _ENDED)
