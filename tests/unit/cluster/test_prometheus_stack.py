"""The Prometheus of the end-to-end tests: what is pinned, and what its images and objects hold."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile

import pytest

from tests.cluster import builds, prometheus_stack, registry
from tests.cluster.settings import REGISTRY, ROOT

IMAGES = prometheus_stack.Images("localhost:5000/operator:1", "localhost:5000/reloader:1", "localhost:5000/prom:1")


def requirements(folder: str) -> dict[str, str]:
    """The modules that a go.mod pins, with their versions."""
    text = (builds.GOMOD / folder / "go.mod").read_text(encoding="utf-8")
    [listed] = re.findall(r"^require \(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^\t(\S+) (\S+)", listed, re.MULTILINE))


@pytest.mark.parametrize("build", builds.MONITORING, ids=lambda build: build.folder)
def test_every_pinned_module_has_a_checksum(build: builds.GoBuild) -> None:
    sums = (builds.GOMOD / build.folder / "go.sum").read_text(encoding="utf-8")
    pinned = requirements(build.folder)
    assert len(pinned) > 100
    assert [name for name, version in pinned.items() if f"\n{name} {version}/go.mod h1:" not in f"\n{sums}"] == []


def test_the_versions_are_those_that_the_modules_pin_and_the_page_names() -> None:
    major, minor, patch = builds.PROMETHEUS_VERSION.split(".")
    pinned = requirements("prometheus")["github.com/prometheus/prometheus"]
    assert pinned == f"v0.{int(major) * 100 + int(minor)}.{patch}"
    operator = requirements("prometheus-operator")["github.com/prometheus-operator/prometheus-operator"]
    assert builds.PROMETHEUS_OPERATOR.ldflags.endswith(f"={operator.removeprefix('v')}")
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert f"Prometheus {major}.{minor} " in page
    assert f"Prometheus Operator {operator.removeprefix('v').rpartition('.')[0]} " in page


def test_the_image_of_a_program_has_it_in_the_folder_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs: list[bytes] = []

    def request(method: str, _: str, body: bytes | None = None, __: str = "") -> str:
        if method == "PUT" and body is not None:
            blobs.append(body)
        return "/v2/program/blobs/uploads/1"

    monkeypatch.setattr(registry, "_request", request)
    registry._push_program(f"{REGISTRY}/program:1", "bin/program", b"content")
    config, layer, manifest = blobs
    assert json.loads(config)["config"]["Entrypoint"] == ["/bin/program"]
    assert json.loads(manifest)["layers"][0]["size"] == len(layer)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        folder, program = archive.getmembers()
    assert (folder.name, folder.isdir(), program.name, program.mode) == ("bin", True, "bin/program", 0o755)


def test_prometheus_selects_by_label_in_all_namespaces_and_has_rights_of_its_own() -> None:
    jobs = [{"job_name": "mine"}]
    objects = [*prometheus_stack.operator_objects(IMAGES), *prometheus_stack.prometheus_objects(IMAGES, jobs)]
    by_kind = {(found["kind"], found["metadata"]["name"]): found for found in objects}
    spec = by_kind["Prometheus", prometheus_stack.PROMETHEUS]["spec"]
    for kind in ("serviceMonitor", "rule"):
        assert spec[f"{kind}Selector"] == {"matchLabels": prometheus_stack.RELEASE}
        assert spec[f"{kind}NamespaceSelector"] == {}
    secret = by_kind["Secret", spec["additionalScrapeConfigs"]["name"]]
    assert json.loads(secret["stringData"][spec["additionalScrapeConfigs"]["key"]]) == jobs
    assert ("ServiceAccount", spec["serviceAccountName"]) in by_kind
    wide = {f"{kind.lower()}/{name}" for kind, name in by_kind if kind.startswith("ClusterRole")}
    assert wide == set(prometheus_stack.cluster_wide())
