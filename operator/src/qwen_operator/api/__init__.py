"""The QwenService as typed models: the source of the CRD, and what the operator reads."""

from __future__ import annotations

from qwen_operator.api.alerting import AlertSpec, RemediationRule, RemediationSpec
from qwen_operator.api.base import ApiObject, ValidationRule, format_duration, parse_duration, parse_quantity
from qwen_operator.api.qwenservice import GROUP, KIND, PLURAL, VERSION, InvalidSpecError, QwenService, QwenServiceSpec
from qwen_operator.api.status import (
    MAX_EVIDENCE,
    MAX_HISTORY,
    MAX_REPLACED,
    MAX_RESTART_TIMES,
    Condition,
    HardwareReplacement,
    HistoryEntry,
    RemediationStatus,
    RestartIntent,
    ServiceStatus,
    format_time,
    parse_time,
)

API_VERSION = f"{GROUP}/{VERSION}"

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "MAX_EVIDENCE",
    "MAX_HISTORY",
    "MAX_REPLACED",
    "MAX_RESTART_TIMES",
    "PLURAL",
    "VERSION",
    "AlertSpec",
    "ApiObject",
    "Condition",
    "HardwareReplacement",
    "HistoryEntry",
    "InvalidSpecError",
    "QwenService",
    "QwenServiceSpec",
    "RemediationRule",
    "RemediationSpec",
    "RemediationStatus",
    "RestartIntent",
    "ServiceStatus",
    "ValidationRule",
    "format_duration",
    "format_time",
    "parse_duration",
    "parse_quantity",
    "parse_time",
]
