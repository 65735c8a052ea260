"""What can go wrong in the operator, as exceptions.

OperatorError
└── InvalidSpecError    a QwenService that the API server let through but that makes no sense
"""

from __future__ import annotations


class OperatorError(Exception):
    """The root of the operator's own errors."""


class InvalidSpecError(OperatorError):
    """A QwenService whose spec cannot be acted upon.

    Attributes:
        field: the path of the offending field, such as `spec.engine.dtype`.
        detail: what is wrong with it.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail
