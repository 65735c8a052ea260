"""`make sbom`: what Python's packages in each image are, as CycloneDX describes it.

The environment of an image consists of exactly the packages that its requirements pin, so they are
what the tool of CycloneDX reads. The packages of Debian are not listed, and neither are those of
vLLM's own image, on which the one for GPUs is built. A release has Docker's SBOM of everything.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.cluster import release
from tests.cluster.requirements import FOLDER as REQUIREMENTS
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import logged

FOLDER = ROOT / "dist" / "sbom"
IMAGES = {"qwen-server-cpu": "server-cpu.txt", "qwen-server-cuda": "server-cuda.txt", "qwen-operator": "operator.txt"}
"""The images, and the requirements of each."""


def write_all(settings: Settings, folder: Path) -> list[Path]:
    """Writes the SBOM of each image into a folder. Returns their paths. Raises Problem."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write(settings, image, folder / f"{image}.cdx.json") for image in IMAGES]


def write(settings: Settings, image: str, path: Path) -> Path:
    """Writes the SBOM of an image. The same requirements make the same file. Raises Problem."""
    tool: list[str | Path] = [sys.executable, "-m", "cyclonedx_py", "requirements", REQUIREMENTS / IMAGES[image]]
    options: list[str | Path] = ["--output-format", "JSON", "--output-reproducible", "--output-file", path]
    logged([*tool, *options], settings.cache / "logs" / "sbom.log", hint="run: make sbom")
    described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    component = {"type": "container", "name": image, "version": release.version(), "bom-ref": image}
    described.setdefault("metadata", {})["component"] = component
    path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return path
