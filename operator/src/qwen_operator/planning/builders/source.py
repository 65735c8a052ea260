"""The source of a pod's model: flags of the server, and the volumes and environment it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from qwen_operator.api import QwenServiceSpec
from qwen_operator.api.core import SecretKeyRef
from qwen_operator.api.objects import Object
from qwen_operator.api.replica import ModelSource

CACHE_PATH: Final = "/cache"
MODEL_PATH: Final = "/models"
IMAGES_DROPPED: Final = "the API server drops volumes that are images"
"""What it does without the feature gate, and without an error."""
# What an API server says that is older than image volumes.
_UNKNOWN_FIELD: Final = ".image: field not declared in schema"


@dataclass(frozen=True)
class Source:
    """A model as the server sees it.

    Attributes:
        model: the value of `--model`.
        revision: the value of `--revision`, None if there is none.
        default_name: the model's name in the API if the spec sets none.

    """

    model: str
    default_name: str
    revision: str | None = None
    env: list[Object] = field(default_factory=list)
    volumes: list[Object] = field(default_factory=list)
    mounts: list[Object] = field(default_factory=list)


def resolve_source(spec: QwenServiceSpec) -> Source:
    """The source that the spec gives."""
    source = spec.model.source
    store = CACHE_PATH if spec.cache is not None else "/tmp"  # noqa: S108 - the pod's own emptyDir
    if source.hugging_face is not None:
        hub = source.hugging_face
        env = [_plain("HF_HOME", f"{store}/huggingface"), *_token("HF_TOKEN", hub.token_secret_ref)]
        return Source(hub.repo, _last(hub.repo), hub.revision, env)
    if source.model_scope is not None:
        scope = source.model_scope
        env = [
            _plain("VLLM_USE_MODELSCOPE", "True"),
            _plain("MODELSCOPE_CACHE", f"{store}/modelscope"),
            *_token("MODELSCOPE_API_TOKEN", scope.token_secret_ref),
        ]
        return Source(scope.repo, _last(scope.repo), scope.revision, env)
    return _local(source)


def _local(source: ModelSource) -> Source:
    mount = {"name": "model", "mountPath": MODEL_PATH, "readOnly": True}
    if source.pvc is not None:
        claim, path = source.pvc.claim_name, source.pvc.path.strip("/")
        volume: Object = {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        model = f"{MODEL_PATH}/{path}" if path else MODEL_PATH
        return Source(model, _last(path) or claim, volumes=[volume], mounts=[mount])
    if source.image is not None:
        image = source.image
        volume = {"name": "model", "image": {"reference": image.reference, "pullPolicy": image.pull_policy}}
        name = _last(image.reference.split("@")[0]).split(":")[0]
        return Source(MODEL_PATH, name, volumes=[volume], mounts=[mount])
    builtin = source.builtin or ""
    return Source(f"builtin:{builtin}", builtin if builtin.startswith("qwen") else f"qwen-{builtin}")


def image_volumes(deployment: Mapping[str, Any]) -> set[str]:
    """The names of a Deployment's volumes that are images."""
    volumes = (deployment["spec"]["template"].get("spec") or {}).get("volumes") or ()
    return {volume["name"] for volume in volumes if "image" in volume}


def lacks_image_volumes(deployment: Mapping[str, Any], refusal: str) -> bool:
    """Whether a Deployment is refused because the cluster has no image volumes."""
    return bool(image_volumes(deployment)) and (IMAGES_DROPPED in refusal or _UNKNOWN_FIELD in refusal)


def image_volumes_advice(refusal: str) -> str:
    """What to do about it."""
    return (
        "This cluster has no image volumes, which model.source.image needs: Kubernetes 1.33 or newer with the feature "
        f"gate ImageVolume. Use another source, such as pvc. ({refusal})"
    )


def served_name(spec: QwenServiceSpec) -> str:
    """The model's name in the API."""
    return spec.model.served_name or resolve_source(spec).default_name


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _plain(name: str, value: str) -> Object:
    return {"name": name, "value": value}


def _token(name: str, reference: SecretKeyRef | None) -> list[Object]:
    if reference is None:
        return []
    return [{"name": name, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}]
