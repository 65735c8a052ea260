"""Garbage collection in the operator's process."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """\
import gc, json
from qwen_operator.process.memory import spare_collections
before = gc.get_threshold()[0]
spare_collections()
print(json.dumps([before, gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count()]))
"""


def test_collections_leave_out_what_is_imported_and_are_rarer() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True, timeout=60).stdout
    before, enabled, threshold, frozen = json.loads(output)
    assert enabled
    assert threshold > 10 * before
    assert frozen > 1000
