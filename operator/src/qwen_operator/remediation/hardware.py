"""Recognizes a pod whose replacement keeps landing on the same broken hardware. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from qwen_operator.api import HardwareReplacement, RestartIntent
from qwen_operator.api.catalogue import AlertClass
from qwen_operator.remediation.state import State
from qwen_operator.remediation.values import Pod
from qwen_operator.status.conditions import Suspension

MAX_REPLACEMENTS: Final = 2
"""Replacements on the same GPU or node after which a pod stays where it is."""
_SAME_NODE_SECONDS: Final = 86400.0
"""Seconds for which a replacement counts against a node. Against a GPU it counts until a reset."""


def blamed(state: State, alert: str) -> bool:
    """Whether another GPU or node may help, so that the pod is replaced and not restarted."""
    return state.policy.kind(alert) in (AlertClass.BROKEN_HARDWARE, AlertClass.DEATH)


def left_behind(state: State, pod: Pod, intent: RestartIntent) -> HardwareReplacement:
    """What a pod leaves behind that is replaced."""
    return HardwareReplacement(pod=pod.name, node=pod.node, gpus=list(_gpus(state, pod)), time=intent.time)


def tried_enough(state: State, pod: Pod) -> bool:
    """Whether two pods were replaced already because of the GPU or the node of this pod."""
    gpus = set(_gpus(state, pod))
    recent = state.now.wall - timedelta(seconds=_SAME_NODE_SECONDS)
    count = sum(
        bool(gpus & set(item.gpus)) or bool(pod.node and item.node == pod.node and item.time > recent)
        for item in state.ledger.replaced
    )
    return count >= MAX_REPLACEMENTS


def suspension(state: State, pod: Pod, alert: str) -> Suspension:
    """The suspension while a pod stays on broken hardware."""
    gpus = ", ".join(_gpus(state, pod)) or "a GPU"
    return Suspension(
        "SameGPU",
        f"{alert} persists on {gpus} of node {pod.node or 'unknown'} after {MAX_REPLACEMENTS} replacements, so pod "
        f"{pod.name} is not replaced again. Cordon the node and delete the pod, or repair the GPU. Then change the "
        "value of the annotation qwen-vllm.io/reset-restart-budget.",
    )


def _gpus(state: State, pod: Pod) -> tuple[str, ...]:
    """The UUIDs of a pod's GPUs; empty if they are not known."""
    evidence = state.seen.evidence.get(pod.uid)
    return () if evidence is None else evidence.gpus
