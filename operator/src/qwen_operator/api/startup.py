"""How long a pod may take to start, from what is known of its model.

A start that hangs should be noticed soon, and the weights of a large model take an hour. The
parameters are counted at two bytes each. A quantized model is smaller, so that it gets more time
than it needs.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

from qwen_operator.api.replica import BUILTIN_MODELS, ModelSource

UNKNOWN_SIZE: Final = timedelta(minutes=30)
"""For a model whose size is not known. Other downloads have this time at least."""

_BASE: Final = timedelta(minutes=10)
"""Imports, compilation and warm-up, which do not depend on the size."""

_LOAD_PER_GB: Final = timedelta(seconds=10)
_DOWNLOAD_PER_GB: Final = timedelta(seconds=60)
_LONGEST: Final = timedelta(hours=24)
_GB_PER_BILLION: Final = 2.0
# The first number counts: Qwen3-30B-A3B has 30 billion parameters, of which 3 are active.
_SIZE: Final = re.compile(r"(?<![A-Za-z0-9.])(\d{1,5}(?:\.\d{1,3})?)([BbMm])(?![A-Za-z0-9])")


def startup_timeout(source: ModelSource) -> timedelta:
    """The default of `rollout.startupTimeout`."""
    if source.builtin is not None:
        return _BASE if source.builtin in BUILTIN_MODELS else UNKNOWN_SIZE
    size = weights_gb(_name(source))
    if size is None:
        return UNKNOWN_SIZE
    downloaded = source.hugging_face is not None or source.model_scope is not None
    seconds = _BASE + size * (_DOWNLOAD_PER_GB if downloaded else _LOAD_PER_GB)
    whole = timedelta(minutes=math.ceil(seconds / timedelta(minutes=1)))
    return min(_LONGEST, max(UNKNOWN_SIZE, whole) if downloaded else whole)


def weights_gb(name: str) -> float | None:
    """The size of a model's weights by the number of parameters in its name; None without one."""
    found = _SIZE.search(name)
    if found is None:
        return None
    billions = float(found[1]) / (1 if found[2] in "Bb" else 1000)
    return _GB_PER_BILLION * billions


def _name(source: ModelSource) -> str:
    """The last part of the repository, path or image."""
    if source.hugging_face is not None:
        place = source.hugging_face.repo
    elif source.model_scope is not None:
        place = source.model_scope.repo
    elif source.pvc is not None:
        place = source.pvc.path or source.pvc.claim_name
    else:
        place = source.image.reference.partition("@")[0] if source.image is not None else ""
    return place.rstrip("/").rsplit("/", 1)[-1]
