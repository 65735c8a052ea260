"""The status of a QwenService."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel

from qwen_operator.api.base import ApiObject, map_list, section

MAX_HISTORY = 20
MAX_EVIDENCE = 2048
MAX_RESTART_TIMES = 200
MAX_REPLACED = 16
_FIRST_YEAR, _LAST_YEAR = 1970, 9000

DownloadPhase = Literal["Pending", "Downloading", "Verifying", "Complete", "Failed"]


def format_time(moment: datetime) -> str:
    """A time in the format of Kubernetes: UTC, whole seconds, `Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """A time from the API; None if it is missing or not valid."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _usable(moment: datetime) -> datetime:
    """A time that a duration can be added to: whoever may write the status may write any."""
    if moment.tzinfo is None or not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"must have a time zone and a year from {_FIRST_YEAR} to {_LAST_YEAR}")
    return moment


Time = Annotated[
    datetime,
    AfterValidator(_usable),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class StatusObject(ApiObject):
    """A part of the status. Fields of other versions of the operator are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class Condition(StatusObject):
    """A condition, as `metav1.Condition`."""

    type: str = Field(description="Type of the condition.", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition is true.")
    reason: str = Field(description="Reason, in one CamelCase word.", max_length=1024)
    message: str = Field(default="", description="Explanation, and what to do.", max_length=32768)
    observed_generation: int | None = Field(default=None, description="Generation that the condition is based on.")
    last_transition_time: Time = Field(description="When the status last changed.")


class RestartIntent(StatusObject):
    """A restart in progress.

    It is written before the restart starts, so that every restart counts.
    """

    pod_uid: str = Field(alias="podUID", description="UID of the pod.")
    pod: str = Field(description="Name of the pod.")
    alert: str = Field(default="", description="Alert that caused the restart.")
    method: Literal["Engine", "InPlace", "Evict"] = Field(description="How the pod is restarted.")
    phase: Literal["Closing", "Restarting", "Waiting"] = Field(
        default="Closing",
        description="Progress of the restart. Closing: the pod leaves rotation and finishes its requests. Restarting: "
        "its engine or container was asked to end. Waiting: it was evicted.",
    )
    time: Time = Field(description="When the restart was decided.")
    restart_count: int = Field(default=0, description="Restart count of the container at that time.")
    engine_restarts: int = Field(default=0, description="How often the server had restarted its engine at that time.")


class HistoryEntry(StatusObject):
    """An action that remediation took, or would have taken."""

    time: Time = Field(description="When it happened.")
    pod: str = Field(description="Name of the pod.")
    pod_uid: str = Field(default="", alias="podUID", description="UID of the pod.")
    node: str = Field(default="", description="Node of the pod.")
    alert: str = Field(default="", description="Alert that caused the action.")
    action: str = Field(description="Action: Unready, Ready, Engine, InPlace, Evict, ...")
    reason: str = Field(default="", description="Reason, in one CamelCase word.")
    message: str = Field(default="", max_length=1024, description="Explanation.")
    dry_run: bool = Field(default=False, description="Whether the action was only reported.")
    metrics: str = Field(default="", max_length=MAX_EVIDENCE, description="Last metrics of the pod, as JSON.")
    termination_message: str = Field(
        default="", max_length=MAX_EVIDENCE, description="Termination message of the container."
    )


class HardwareReplacement(StatusObject):
    """A pod that was replaced because its hardware seems to be broken."""

    pod: str = Field(description="Name of the pod.")
    node: str = Field(default="", description="Node of the pod.")
    gpus: list[str] = Field(default_factory=list, max_length=64, description="UUIDs of its GPUs, if they are known.")
    time: Time = Field(description="When the replacement was decided.")


class DownloadStatus(StatusObject):
    """The download of the model into the cache."""

    id: str = Field(description="Hash of what is downloaded.", max_length=64)
    model: str = Field(description="Repository and revision.", max_length=512)
    phase: DownloadPhase = Field(description="How far the download is.")
    progress: str = Field(default="", description="Percentage of the bytes that are there.", max_length=8)
    downloaded_bytes: int = Field(default=0, description="Bytes that are there.")
    total_bytes: int | None = Field(default=None, description="Bytes of the model.")
    bytes_per_second: int | None = Field(default=None, description="Rate of the last half minute.")
    seconds_remaining: int | None = Field(default=None, description="Seconds that the rest takes at this rate.")
    message: str = Field(default="", description="Why nothing arrives at the moment.", max_length=1024)


class AdapterStatus(StatusObject):
    """A LoRA adapter in the pods."""

    name: str = Field(description="Name of the adapter.", max_length=63)
    pods: str = Field(description="Pods that have it, and all pods, such as 2/3.", max_length=16)
    reason: str = Field(
        description="Loaded: all pods have it. Loading: some will soon. Failed: one cannot load it. Unknown: one does "
        "not answer.",
        max_length=32,
    )
    message: str = Field(default="", description="Why it is not in all pods.", max_length=512)


class RemediationStatus(StatusObject):
    """The state of remediation. It survives restarts of the operator."""

    intents: list[RestartIntent] = Field(default_factory=list, max_length=16, description="Restarts in progress.")
    restart_times: list[Time] = Field(
        default_factory=list,
        max_length=MAX_RESTART_TIMES,
        description="Times of the restarts that count against the budget.",
    )
    restarts_in_window: int = Field(default=0, description="Number of restarts in the window of the budget.")
    last_restart_time: Time | None = Field(default=None, description="Time of the last restart.")
    backoff_until: Time | None = Field(default=None, description="No restart begins before this time.")
    replaced: list[HardwareReplacement] = Field(
        default_factory=list,
        max_length=MAX_REPLACED,
        description="Pods that were replaced because of their hardware. After two on the same GPU, or on the same node "
        "within a day, remediation replaces no more there. A reset of the budget clears the list.",
    )
    handled_reset: str = Field(
        default="",
        max_length=1024,
        description="Last value of the annotation qwen-vllm.io/reset-restart-budget that was handled.",
    )
    history: list[HistoryEntry] = Field(
        default_factory=list, max_length=MAX_HISTORY, description="The most recent actions, oldest first."
    )


class ServiceStatus(StatusObject):
    """The observed state of a QwenService."""

    observed_generation: int | None = Field(default=None, description="Generation that the status is based on.")
    replicas: int = Field(default=0, description="Number of pods.")
    ready_replicas: int = Field(default=0, description="Number of pods that answer requests.")
    selector: str = Field(default="", description="Label selector of the pods, for autoscalers.")
    url: str = Field(default="", description="URL of the service for clients inside the cluster.")
    model: str = Field(default="", description="Name of the model in the API. It changes when an update has ended.")
    gpus: int = Field(default=0, description="GPUs per replica.")
    download: DownloadStatus | None = Field(
        default=None, description="The download of the model into the cache, if a Job does it."
    )
    adapters: list[AdapterStatus] = map_list(["name"], "The LoRA adapters of the spec, in its order.", 32)
    reason: str = Field(default="", description="Reason of the most important condition.")
    conditions: list[Condition] = map_list(["type"], "Conditions.", 16)
    remediation: RemediationStatus = section(RemediationStatus, "State of remediation.")

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if there is one."""

        return next((condition for condition in self.conditions if condition.type == kind), None)


class UnreadableStatusError(Exception):
    """A state of remediation that this version cannot read, such as one of a newer version."""


def read_status(value: Any) -> ServiceStatus:
    """The status of an object. Fields that cannot be read are left out, the others are kept."""
    while True:
        try:
            return ServiceStatus.model_validate(value or {})
        except ValidationError as error:
            value = _without(value, error.errors(include_url=False)[0]["loc"])


def _without(value: Any, place: tuple[int | str, ...]) -> Any:
    """The status without a field, or without one item of its conditions."""
    if not isinstance(value, dict) or not place or place[0] not in value:
        return {}
    name = place[0]
    rest = {key: part for key, part in value.items() if key != name}
    if name == "conditions" and len(place) > 1:
        rest["conditions"] = [item for number, item in enumerate(value[name]) if number != place[1]]
    return rest


def read_ledger(value: Any) -> RemediationStatus:
    """The state of remediation in the status of an object.

    Raises UnreadableStatusError instead of leaving anything out: budget and intents must survive.
    """
    ledger = value.get("remediation") if isinstance(value, dict) else value
    try:
        return RemediationStatus.model_validate({} if ledger is None else ledger)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(["status.remediation", *(str(part) for part in first["loc"])])
        raise UnreadableStatusError(f"{place}: {first['msg']}") from error
