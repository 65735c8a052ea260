"""The status of a QwenService."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

from qwen_operator.api.base import ApiObject, map_list, section

MAX_HISTORY = 20
MAX_EVIDENCE = 2048
MAX_RESTART_TIMES = 200


def format_time(moment: datetime) -> str:
    """A time as Kubernetes writes it: UTC, whole seconds, `Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[
    datetime,
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class StatusObject(ApiObject):
    """A part of the status; fields of other versions of the operator are let pass."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class Condition(StatusObject):
    """A condition as in metav1."""

    type: str = Field(description="The condition.", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(description="Why, in one CamelCase word.", max_length=1024)
    message: str = Field(default="", description="Why, and what to do about it.", max_length=32768)
    observed_generation: int | None = Field(default=None, description="The generation that this is about.")
    last_transition_time: Time = Field(description="When status last changed.")


class RestartIntent(StatusObject):
    """A restart that is under way. It is written before anything is done, so that no restart escapes the budget."""

    pod_uid: str = Field(alias="podUID", description="The pod.")
    pod: str = Field(description="Its name.")
    alert: str = Field(default="", description="The alert that led to it.")
    method: Literal["InPlace", "Evict"] = Field(description="How it is done.")
    phase: Literal["Closing", "Draining", "Restarting", "Waiting"] = Field(
        default="Closing", description="How far it is."
    )
    time: Time = Field(description="When it was decided.")
    restart_count: int = Field(default=0, description="The container's restarts at that time.")


class HistoryEntry(StatusObject):
    """Something that remediation did, or would have done."""

    time: Time = Field(description="When.")
    pod: str = Field(description="The pod.")
    pod_uid: str = Field(default="", alias="podUID", description="Its UID.")
    node: str = Field(default="", description="Its node.")
    alert: str = Field(default="", description="The alert.")
    action: str = Field(description="What was done: Unready, Ready, InPlace, Evict, ...")
    reason: str = Field(default="", description="Why, in one CamelCase word.")
    message: str = Field(default="", max_length=1024, description="Why.")
    dry_run: bool = Field(default=False, description="Whether it was only reported.")
    metrics: str = Field(default="", max_length=MAX_EVIDENCE, description="The pod's last metrics, as JSON.")
    termination_message: str = Field(
        default="", max_length=MAX_EVIDENCE, description="The last words of the container."
    )


class RemediationStatus(StatusObject):
    """What remediation remembers; it survives the operator's own restarts."""

    intents: list[RestartIntent] = Field(default_factory=list, max_length=16, description="Restarts under way.")
    restart_times: list[Time] = Field(
        default_factory=list, max_length=MAX_RESTART_TIMES, description="The restarts that the budget counts."
    )
    restarts_in_window: int = Field(default=0, description="How many of them lie in the window.")
    last_restart_time: Time | None = Field(default=None, description="The last one.")
    backoff_until: Time | None = Field(default=None, description="No restart before this time.")
    handled_reset: str = Field(
        default="", max_length=1024, description="The value of qwen-vllm.io/reset-restart-budget that was acted upon."
    )
    history: list[HistoryEntry] = Field(
        default_factory=list, max_length=MAX_HISTORY, description="The last actions, oldest first."
    )


class ServiceStatus(StatusObject):
    """The state of a QwenService."""

    observed_generation: int | None = Field(default=None, description="The generation that this is about.")
    replicas: int = Field(default=0, description="Pods that exist.")
    ready_replicas: int = Field(default=0, description="Pods that answer requests.")
    selector: str = Field(default="", description="Label selector of the pods, for autoscalers.")
    url: str = Field(default="", description="Where clients inside the cluster reach the service.")
    model: str = Field(default="", description="The model's name in the API.")
    gpus: int = Field(default=0, description="GPUs of one replica.")
    reason: str = Field(default="", description="The reason of the condition that matters most.")
    conditions: list[Condition] = map_list(["type"], "Conditions.", 16)
    remediation: RemediationStatus = section(RemediationStatus, "What remediation remembers.")

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type, if there is one."""
        return next((condition for condition in self.conditions if condition.type == kind), None)
