"""The other operator, built from its Go module, which is pinned here, or from a checkout."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.builds import require_go
from tests.cluster.console import Problem
from tests.cluster.settings import cache_dir
from tests.cluster.shell import digest, logged, output

from benchmarks.console import say

MODULE = "github.com/vllm-project/production-stack/operator"
VERSION = "v0.0.0-20260805165315-a6c01db05f65"
_BUILD_SECONDS = 900
_SAMPLE = "production-stack_v1alpha1_vllmruntime.yaml"


@dataclass(frozen=True)
class Peer:
    """The program, the folder with its definitions, and its sample of an object."""

    program: Path
    definitions: Path
    sample: dict[str, Any]


def build(checkout: Path | None = None) -> Peer:
    """Builds it, or finds what was built before. Raises Problem with the reason if it cannot.

    The module's go.mod has another name than its place, so that `go install` refuses it. The
    sources are copied out of the module cache, which is read-only, and built there. With
    `checkout`, they are those of that folder.
    """
    version = VERSION.rpartition("-")[2] if checkout is None else f"checkout-{digest([checkout])}"
    folder = cache_dir() / "operators" / f"production-stack-{version}"
    program, sources = folder / "manager", folder / "src"
    if not program.exists():
        require_go()
        say(f"building {MODULE} (minutes)")
        source = _download() if checkout is None else checkout
        shutil.rmtree(folder, ignore_errors=True)
        _copy(source, sources)
        flags = ["-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(folder / "unfinished")]
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
        log = folder / "build.log"
        logged(["go", "build", *flags, "./cmd"], log, cwd=sources, env=environment, hint=f"see {log}")
        (folder / "unfinished").rename(program)
    sample = yaml.safe_load((sources / "config" / "samples" / _SAMPLE).read_text(encoding="utf-8"))
    return Peer(program, sources / "config" / "crd" / "bases", sample)


def _download() -> Path:
    """The module's folder in the module cache."""
    with tempfile.TemporaryDirectory() as empty:
        command = ["go", "-C", empty, "mod", "download", "-json", f"{MODULE}@{VERSION}"]
        try:
            found = json.loads(output(command, timeout=_BUILD_SECONDS))
        except Problem as problem:
            what = f"the Go module proxy does not deliver {MODULE}@{VERSION}"
            raise Problem(what, "give a checkout with --peer", problem.details) from problem
    return Path(found["Dir"])


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
