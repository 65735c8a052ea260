"""kind and the current context, with fake programs that record their command lines."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cluster import builds, clusters, images, settings
from tests.cluster.console import Problem
from tests.cluster.settings import ROOT, Settings

RECORD = """#!/bin/sh
echo "$(basename "$0") $*" >>{calls}
case "$*" in
  "image inspect"*) exit 1 ;;
  "get clusters") echo other ;;
  "config current-context") echo staging ;;
  "info --format {{{{.DockerRootDir}}}}") echo {root} ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working docker, kind and kubectl; Helm is installed; .cluster is in a temporary folder."""
    record = tmp_path / "calls"
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("docker", "kind", "kubectl"):
        (programs / name).write_text(RECORD.format(calls=record, root=tmp_path))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(builds, "ensure", lambda *_: "up to date")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setattr("tests.cluster.node.require_disk", lambda *_: None)
    return record


def made(tmp_path: Path) -> Settings:
    return Settings("qwen", "192.168.250", tmp_path / "cache")


def test_kind_is_the_default_where_docker_and_kind_are(calls: Path, tmp_path: Path) -> None:
    assert isinstance(clusters.choose(made(tmp_path), ""), clusters.Kind)
    assert "docker info" in calls.read_text()


def test_kind_cluster_gets_both_images_and_leaves_a_kubeconfig(calls: Path, tmp_path: Path) -> None:
    kind = clusters.Kind(made(tmp_path))
    kind.prepare()
    lines = calls.read_text().splitlines()
    kubeconfig = tmp_path / ".cluster" / "kubeconfig"
    assert any(line.startswith("kind create cluster --name qwen-vllm") and str(kubeconfig) in line for line in lines)
    for image in images.IMAGES:
        reference = kind.reference(image)
        assert reference == f"{image.name}:{image.tag()}"
        built = next(i for i, line in enumerate(lines) if line.startswith("docker build") and reference in line)
        assert f"--target {image.target}" in lines[built]
        assert "--provenance=false" in lines[built]
        assert any(line.startswith(f"kind load docker-image {reference}") for line in lines[built:])
    assert str(kubeconfig) in (tmp_path / ".cluster" / "env").read_text()
    kind.down()
    assert calls.read_text().splitlines()[-1] == "kind delete cluster --name qwen-vllm"
    assert not (tmp_path / ".cluster" / "env").exists()


def test_kind_needs_space_where_docker_keeps_its_images(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, int]] = []

    def require(folder: Path, gibibytes: int, hint: str) -> None:
        assert "docker" in hint
        asked.append((folder, gibibytes))

    monkeypatch.setattr("tests.cluster.node.require_disk", require)
    clusters.require_docker_disk(20)
    assert asked == [(tmp_path, 20)]


def test_only_programs_that_the_machine_lacks_are_built(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[builds.GoBuild] = []

    def ensure(_: Settings, wanted: tuple[builds.GoBuild, ...]) -> str:
        built.extend(wanted)
        return "built"

    monkeypatch.setattr(builds, "ensure", ensure)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    without = clusters.Kind(made(tmp_path))
    clusters.ensure_clients(without.settings, without.kubectl, without.helm)
    assert (built, without.kubectl) == ([builds.HELM], "kubectl")
    (tmp_path / "programs" / "kubectl").rename(tmp_path / "programs" / "helm")
    having = clusters.Kind(made(tmp_path))
    clusters.ensure_clients(having.settings, having.kubectl, having.helm)
    assert (built, having.helm) == ([builds.HELM, builds.KUBECTL], "helm")


def test_the_node_of_kind_is_one_that_the_workflow_pins() -> None:
    [image] = re.findall(r"^    image: (\S+)$", (ROOT / "kind-config.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(r"kindest/node:v[\d.]+@sha256:[0-9a-f]{64}", image)
    assert image in (ROOT / ".github" / "workflows" / "ci.yaml").read_text(encoding="utf-8")


def test_tests_run_on_the_local_cluster_unless_kind_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, kind in (("", clusters.Local), ("local", clusters.Local), ("kind", clusters.Kind)):
        monkeypatch.setenv("CLUSTER", wanted)
        assert isinstance(clusters.for_tests(made(tmp_path)), kind)
    monkeypatch.setenv("CLUSTER", "current")
    with pytest.raises(Problem, match="do not run on CLUSTER=current"):
        clusters.for_tests(made(tmp_path))


def test_current_cluster_gets_its_images_by_the_registry(calls: Path, tmp_path: Path) -> None:
    current = clusters.Current(made(tmp_path), "registry.example.com/team")
    current.prepare()
    lines = calls.read_text().splitlines()
    for image in images.IMAGES:
        assert f"docker push registry.example.com/team/{image.name}:{image.tag()}" in lines
    assert not any(line.startswith("kind") for line in lines)


def test_current_cluster_is_neither_started_nor_stopped(tmp_path: Path) -> None:
    current = clusters.Current(made(tmp_path), "registry.example.com/team")
    for action in (current.up, current.down):
        with pytest.raises(Problem, match="CLUSTER=current"):
            action()


def test_kind_without_docker_says_what_else_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Problem, match="Docker") as caught:
        clusters.Kind(made(tmp_path)).prepare()
    assert "CLUSTER=local" in caught.value.hint
