from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import qwen_operator
import qwen_server
from tests.cluster import builds, clusters, demo, images, packages, python_env, registry, release
from tests.cluster.console import Problem
from tests.cluster.settings import KUBERNETES_VERSION, ROOT, Settings


def test_image_reference_is_the_registrys_with_a_content_hash() -> None:
    name, tag = registry.split(images.OPERATOR.reference())
    assert name == "qwen-operator"
    assert len(tag) == 12
    assert images.OPERATOR.reference() == images.OPERATOR.reference()


def stages(image: images.Image) -> str:
    """The part of a Dockerfile that makes an image: its target, and the stages below that."""
    text = (ROOT / image.dockerfile).read_text()
    parts = re.findall(r"^FROM (\S+) AS (\w+)\n((?:(?!FROM ).*\n)*)", text, re.MULTILINE)
    bases = {name: (base, body) for base, name, body in parts}
    found, left = "", [image.target]
    while left:
        base, body = bases[left.pop()]
        found += body
        left += [name for name in (base, *re.findall(r"^COPY --from=(\w+) ", body, re.MULTILINE)) if name in bases]
    return found


def test_everything_that_an_image_copies_counts_for_its_tag() -> None:
    for image in images.IMAGES:
        lines = [line.split() for line in stages(image).splitlines() if re.match(r"COPY (?!--from)", line)]
        copied = {source for line in lines for source in line[1:-1]}
        assert copied == set(image.sources)


@pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.name)
def test_the_same_content_has_the_same_digest(
    image: images.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(images, "logged", lambda command, *_, **__: commands.append(" ".join(map(str, command))))
    monkeypatch.setattr(images, "_secrets", lambda _: nullcontext([]))
    monkeypatch.setattr(images, "_uv_cache", lambda _: "/uv-cache")
    images.build(Settings("qwen", "192.168.250", tmp_path), image, "localhost/a:b", "--no-cache")
    [command] = commands
    assert f"--timestamp={images.EPOCH} " in command
    assert " --no-cache " in command
    assert command.endswith(f" --tag localhost/a:b {ROOT}")
    # Bytecode does not contain the time of its source.
    text = stages(image)
    assert text.count("compileall") == text.count("--invalidation-mode unchecked-hash") > 0
    assert "export PYC_INVALIDATION_MODE=UNCHECKED_HASH\n" in (ROOT / "requirements" / "install.sh").read_text()


def test_an_image_says_what_it_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    remotes = iter(["https://github.com/someone/qwen.git\n", "https://user:secret@example.com/qwen\n"])

    def git(command: list[str]) -> str:
        return "0123abc-dirty\n" if "describe" in command else next(remotes)

    monkeypatch.setattr(images, "output", git)
    prefix = "--label=org.opencontainers.image."
    version = f"{prefix}version={release.version()}"
    assert images.labels() == [
        version,
        f"{prefix}revision=0123abc-dirty",
        f"{prefix}source=https://github.com/someone/qwen",
    ]
    assert images.labels() == [version, f"{prefix}revision=0123abc-dirty"]

    def no_git(_: list[str]) -> str:
        raise Problem("git is not installed")

    monkeypatch.setattr(images, "output", no_git)
    assert images.labels() == [version]


def test_programs_chart_and_images_have_one_version() -> None:
    assert qwen_server.__version__ == qwen_operator.__version__ == release.version()
    for program in ("server", "operator"):
        project = tomllib.loads((ROOT / program / "pyproject.toml").read_text())
        assert project["project"]["dynamic"] == ["version"]
        assert "__version__ = " in (ROOT / program / project["tool"]["hatch"]["version"]["path"]).read_text()
        assert "image.version" not in (ROOT / program / "Dockerfile").read_text()  # a label of the build


def test_a_release_describes_its_images_and_can_be_built_again() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yaml").read_text()
    for setting in ("sbom: true", "provenance: mode=max", "outputs: type=registry,rewrite-timestamp=true"):
        assert f"          {setting}\n" in text
    assert "SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)" in text
    for name in ("revision", "source", "version"):
        assert f"            org.opencontainers.image.{name}=${{{{ " in text


class Builder:
    """Stands in for buildah and the registry. Records what is done; the first pushes fail."""

    def __init__(self, refused: int) -> None:
        self.refused = refused
        self.done: list[str] = []
        self.pushed = False

    def run(self, command: list[str], *_: object, **__: object) -> None:
        if "rmi" in command:
            self.done.append("remove")
            return
        self.done.append("push")
        if self.refused:
            self.refused -= 1
            raise Problem("buildah push failed", "see the log", "file integrity checksum failed")
        self.pushed = True

    def step(self, name: str) -> Callable[..., str]:
        def do(*_: object) -> str:
            self.done.append(name)
            return name

        return do


def builder(monkeypatch: pytest.MonkeyPatch, refused: int) -> Builder:
    made = Builder(refused)
    monkeypatch.setattr(images, "logged", made.run)
    monkeypatch.setattr(images, "ensure_base", made.step("base"))
    monkeypatch.setattr(images, "ensure_built", made.step("build"))
    monkeypatch.setattr(registry, "has", lambda *_: made.pushed)
    return made


def test_a_refused_push_is_tried_again_with_an_image_that_is_built_from_its_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings("qwen", "192.168.250", tmp_path)
    well = builder(monkeypatch, 0)
    assert images.ensure_pushed(settings, images.OPERATOR) == f"pushed {images.OPERATOR.reference()}"
    assert well.done == ["build", "push"]
    once = builder(monkeypatch, 1)
    assert images.ensure_pushed(settings, images.OPERATOR).endswith(", after it was built again")
    assert once.done == ["build", "push", "remove", "base", "build", "push"]
    assert "buildah push failed: qwen-operator is built again from its base" in capsys.readouterr().out


def test_a_push_that_is_refused_twice_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    twice = builder(monkeypatch, 2)
    with pytest.raises(Problem, match="cannot be pushed: buildah push failed") as caught:
        images.ensure_pushed(Settings("qwen", "192.168.250", tmp_path), images.OPERATOR)
    assert twice.done.count("push") == 2
    assert f"make cluster-down; rm -rf {tmp_path}/images" in caught.value.hint
    assert caught.value.details == "file integrity checksum failed"


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
