"""When a watch is tried again after it failed, and from which version."""

from __future__ import annotations

import random
from typing import Final

from qwen_operator.kube.errors import ForbiddenError, GoneError, KubeError

_PAUSES: Final = (0.2, 1.0, 2.0, 5.0, 10.0)
_DENIED_PAUSE: Final = 30.0
_LONGEST_PAUSE: Final = 60.0
_LIST_AFTER: Final = 5
_KEPT: Final = (0, 401, 403, 429)


def must_list(problem: Exception | None, failures: int) -> bool:
    """Whether the objects must be listed again after this number of failures in a row.

    A watch that was refused for a moment (overload, a restarting API server, a missing permission)
    continues from its version. A list of everything would add to the overload.
    """
    if failures % _LIST_AFTER == 0:
        return True
    if problem is None:
        return False
    # 410 is no error of a moment, nor is 504 for a version of the future. Both are GoneErrors.
    if isinstance(problem, GoneError) or not isinstance(problem, KubeError):
        return True
    return problem.status not in _KEPT and problem.status < 500


def pause(problem: Exception | None, failures: int) -> float:
    """Seconds until the next try, with jitter, at least what the API server asks for."""
    longest = _PAUSES[min(failures, len(_PAUSES)) - 1]
    if isinstance(problem, ForbiddenError) and failures > len(_PAUSES):
        longest = _DENIED_PAUSE
    asked = min(problem.retry_after, _LONGEST_PAUSE) if isinstance(problem, KubeError) else 0.0
    # Jitter spreads the watches of many namespaces, which all fail at the same moment.
    return asked + longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
