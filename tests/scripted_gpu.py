"""The program with a scripted engine, whose GPU has the figures of a file.

`python -m tests.scripted_gpu --port 8000 ...`: the file that SCRIPTED_GPU names has fields of a
`GpuReading` as a JSON object. Without the file there is no GPU. The boundary to NVML itself is
tested in `tests/unit/qwen_server/test_nvml.py`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from qwen_server import app as real
from qwen_server.observe.gpu import GpuMonitor, GpuReading
from qwen_server.runner import main
from tests.scripted_engine import engine_of


def reading(file: Path) -> GpuReading:
    """What the file says of the GPU."""
    if not file.exists():
        return GpuReading()
    figures: dict[str, Any] = json.loads(file.read_bytes())
    return GpuReading(**{**figures, "faults": tuple(figures.get("faults", ()))})


def patch(file: Path) -> None:
    """Lets the program make applications that read their GPU from the file."""
    create = real.create_app

    def create_with_gpu(*arguments: Any, **options: Any) -> Any:
        return create(*arguments, **options, gpu=GpuMonitor(read=lambda: reading(file)))

    real.create_app = create_with_gpu


if __name__ == "__main__":
    patch(Path(os.environ["SCRIPTED_GPU"]))
    main(sys.argv[1:], engine_of)
