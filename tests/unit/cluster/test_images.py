from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import builds, clusters, demo, images, packages, python_env, registry
from tests.cluster.console import Problem
from tests.cluster.settings import KUBERNETES_VERSION, ROOT, Settings


def test_image_reference_is_the_registrys_with_a_content_hash() -> None:
    name, tag = registry.split(images.OPERATOR.reference())
    assert name == "qwen-operator"
    assert len(tag) == 12
    assert images.OPERATOR.reference() == images.OPERATOR.reference()


def stages(image: images.Image) -> str:
    """The part of a Dockerfile that makes an image: its target, and the stages under that."""
    text = (ROOT / image.dockerfile).read_text()
    parts = re.findall(r"^FROM (\S+) AS (\w+)\n((?:(?!FROM ).*\n)*)", text, re.MULTILINE)
    bases = {name: (base, body) for base, name, body in parts}
    found, stage = "", image.target
    while stage in bases:
        stage, body = bases[stage]
        found += body
    return found


def test_everything_that_an_image_copies_counts_for_its_tag() -> None:
    for image in images.IMAGES:
        lines = [line.split() for line in stages(image).splitlines() if line.startswith("COPY ")]
        copied = {source for line in lines for source in line[1:-1]}
        assert copied == set(image.sources)


def test_a_user_id_that_no_file_knows_has_a_name_and_a_home() -> None:
    for image in images.IMAGES:
        text = stages(image)
        assert "USER 65532:65532" in text
        assert " HOME=/tmp LOGNAME=qwen USER=qwen" in text
    cuda = (ROOT / "server" / "Dockerfile").read_text().partition(" AS cuda\n")[2]
    assert " HOME=/tmp LOGNAME=qwen USER=qwen" in cuda


def test_base_image_comes_from_this_machines_mirrors_if_it_runs_the_same_suite() -> None:
    targets = """\
http://mirror/debian/ bookworm main Debian
http://mirror/debian-security/ bookworm-security main Debian
http://mirror/debian/ bookworm contrib Debian
https://other.example/apt stable main Other
"""
    assert images.mirror_lines(targets) == [
        "deb http://mirror/debian/ bookworm main",
        "deb http://mirror/debian-security/ bookworm-security main",
    ]
    assert images.mirror_lines("http://mirror/debian/ trixie main Debian\n") == []


def test_pips_index_is_found_and_the_environment_wins() -> None:
    listing = ":env:.index-url='https://env.example/simple'\nglobal.index-url='https://file.example/simple'\nglobal.cert='/ca'\n"
    assert python_env.pip_config(listing) == {"index-url": "https://env.example/simple", "cert": "/ca"}
    assert python_env.pip_config("") == {}


def test_go_modules_are_pinned_to_the_versions_that_the_flags_name() -> None:
    text = (builds.GOMOD / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{KUBERNETES_VERSION}" in text
    for program in builds.KUBERNETES.programs:
        assert f"k8s.io/kubernetes/cmd/{program}\n" in text


def test_missing_go_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Problem, match="go is not installed") as caught:
        builds.require_go()
    assert "https://go.dev/dl/" in caught.value.hint


def test_missing_programs_are_asked_for_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr(packages, "FILES", {"/no/such/file": "a-package"})
    assert {"buildah", "etcd-server", "containerd", "a-package"} <= set(packages.missing())


def test_other_cluster_names_are_refused() -> None:
    settings = Settings("qwen", "192.168.250", Path("/cache"))
    with pytest.raises(Problem, match="minikube"):
        clusters.choose(settings, "minikube")


def test_current_cluster_needs_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY", raising=False)
    current = clusters.choose(Settings("qwen", "192.168.250", Path("/cache")), "current")
    with pytest.raises(Problem, match="registry") as caught:
        current.prepare()
    assert "REGISTRY=" in caught.value.hint


@pytest.mark.parametrize(
    ("choice", "body"),
    [
        ({"message": {"content": "财经"}}, {"messages": [{"role": "user", "content": "央行"}]}),
        ({"text": "财经"}, {"prompt": "央行"}),
    ],
)
def test_both_kinds_of_answers_are_shown(choice: dict[str, Any], body: dict[str, Any]) -> None:
    answer = {"model": "m", "choices": [choice], "usage": {"total_tokens": 7}}
    text = demo.shown("http://x/v1", body, answer)
    assert "央行" in text
    assert "-> 财经   (m, 7 tokens)" in text


def test_asking_pod_keeps_to_the_restricted_standard() -> None:
    pod = demo.asking_pod("image", "http://x")
    container = pod["spec"]["containers"][0]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    requests = json.loads(next(e["value"] for e in container["env"] if e["name"] == "REQUESTS"))
    assert [path for path, _ in requests] == ["/v1/chat/completions", "/v1/completions"]
