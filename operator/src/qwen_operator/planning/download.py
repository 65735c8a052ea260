"""Whether a Job has to download the model before the pods may start. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_operator.api import QwenService
from qwen_operator.api.objects import Object
from qwen_operator.planning.builders.common import stable_hash
from qwen_operator.planning.builders.download import build_download_job, what_it_loads


@dataclass(frozen=True)
class Download:
    """The download of a service's model by a Job.

    Attributes:
        id: a hash of what is downloaded, where from and where to.
        model: the same in the words of the spec, such as `Qwen/Qwen3-8B@main`.
        job: the Job that downloads it.
        done: whether the model is there, so that no Job is needed and no pod waits.
        failed: whether the Job has failed. It is made again when the cluster has deleted it.
    """

    id: str
    model: str
    job: Object
    done: bool
    failed: bool = False

    @property
    def name(self) -> str:
        """The name of the Job."""
        return str(self.job["metadata"]["name"])


def plan_download(
    service: QwenService,
    template: Object,
    jobs: Sequence[Mapping[str, Any]],
    live: Mapping[str, Any] | None,
    claims: Mapping[str, Mapping[str, Any]],
) -> Download | None:
    """The download of the model of a pod template; None if each pod downloads what it needs.

    jobs: the Jobs of the service.
    live: its Deployment.
    claims: the known claims of the namespace, by name.
    """
    model = _model(service)
    if model is None or _is_exclusive(service, claims):
        return None
    loads = what_it_loads(template)
    identity = stable_hash(loads)
    job = build_download_job(service, template)
    own = [found for found in jobs if found["metadata"]["name"] == job["metadata"]["name"]]
    recorded = service.status.download
    done = (
        (recorded is not None and recorded.phase == "Complete" and recorded.id == identity)
        # These pods have started after a download, or have downloaded it themselves.
        or (live is not None and what_it_loads(live["spec"]["template"]) == loads)
        or any(has_condition(found, "Complete") for found in own)
    )
    return Download(identity, model, job, done, failed=any(has_condition(found, "Failed") for found in own))


def is_over(job: Mapping[str, Any]) -> bool:
    """Whether a Job has ended, in whatever way."""
    return has_condition(job, "Complete") or has_condition(job, "Failed")


def has_condition(job: Mapping[str, Any], condition: str) -> bool:
    """Whether a condition of a Job is true: `Complete`, `Failed` or `Suspended`."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(item["type"] == condition and item["status"] == "True" for item in conditions)


def _model(service: QwenService) -> str | None:
    """The repository and revision that a Job can download; None if there is none."""
    cache, source = service.spec.cache, service.spec.model.source
    if cache is None or cache.download == "Pods":
        return None
    repository = source.hugging_face or source.model_scope
    return None if repository is None else f"{repository.repo}@{repository.revision}"


def _is_exclusive(service: QwenService, claims: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether only one pod at a time can mount the cache.

    A Job would wait for the pods that run, and they would not be replaced before it has ended.
    """
    cache = service.spec.cache
    if cache is None:
        return False
    modes: Sequence[str] = cache.access_modes
    if cache.existing_claim:
        claim = claims.get(cache.existing_claim)
        modes = () if claim is None else claim["spec"].get("accessModes") or ()
    return "ReadWriteOncePod" in modes
