"""Each guide is followed word for word: its commands run as a reader pastes them.

tests/e2e/guide_blocks.py says what is done with each block. What is not run is marked in the page.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.cluster import images
from tests.cluster.clusters import Local
from tests.cluster.demo import Client, install_operator
from tests.cluster.settings import KUBERNETES_VERSION, ROOT, Settings
from tests.e2e import scripted_pods
from tests.e2e.guide_blocks import Block, Kind, Step, blocks, difference, is_read, steps
from tests.e2e.guide_shell import Outcome, Shell, shell
from tests.e2e.guides import GUIDES, Guide
from tests.e2e.kubectl import Kubectl
from tests.e2e.scripted_pods import scripted_service
from tests.e2e.services import qwen_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

TEAMS = ("team-a", "team-b")
METRICS_KEYS = "qwen-metrics-keys"  # docs/operations.md creates it beside the operator
# A reader who is too early tries it again.
PATIENCE_SECONDS = 90
SECONDS, SECONDS_OF_WAITS = 120, 660
WAITS = ("helm ", "kubectl rollout status ", "kubectl wait ")


class Reader:
    """Follows a page in a shell."""

    def __init__(self, guide: Guide, shell: Shell, folder: Path) -> None:
        self._guide = guide
        self._shell = shell
        self._folder = folder
        self._printed = ""

    def follow(self, block: Block, before: Callable[[str], None]) -> None:
        """Does what the page says; `before` gets each command first. Raises AssertionError."""
        kind = block.kind
        if kind is Kind.FILE:
            (self._folder / block.note).write_text(block.text, encoding="utf-8")
        elif kind is Kind.ANSWER:
            problem = difference(block.text.strip(), self._printed)
            assert not problem, f"{block.where}: {problem}"
        elif kind is Kind.COMMANDS:
            for step in steps(block):
                before(step.command)
                self._run(step, block)
        elif kind is not Kind.EXCUSED:
            self._run(Step(self._command_for(block, kind), ""), block)

    def _command_for(self, block: Block, kind: Kind) -> str:
        """What a reader does with a file of this kind."""
        file = self._folder / f"block-{block.line}.{'py' if kind is Kind.SCRIPT else 'yaml'}"
        file.write_text(block.text, encoding="utf-8")
        patch = f"kubectl patch qs {self._guide.service} --type=merge --dry-run=server --patch-file"
        render = f"helm template qwen-operator charts/qwen-operator --kube-version {KUBERNETES_VERSION}"
        commands = {
            Kind.SCRIPT: "python",
            Kind.OBJECTS: "kubectl apply -f",
            Kind.DRY_RUN: "kubectl apply --dry-run=server -f",
            Kind.PART: patch,
            Kind.VALUES: f"{render} --values",
        }
        return f"{commands[kind]} {file.name}"

    def _run(self, step: Step, block: Block) -> None:
        """Runs a command, again and again if it only reads and the time for it may come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        timeout = SECONDS_OF_WAITS if step.command.startswith(WAITS) else SECONDS
        while True:
            outcome = self._shell.run(step.command, timeout)
            problem = _problem(step, outcome)
            if not problem:
                self._printed = outcome.output
                return
            last = not is_read(step.command) or time.monotonic() > deadline
            assert not last, f"{block.where}: `{step.command}`: {problem}"
            time.sleep(1)


def _problem(step: Step, outcome: Outcome) -> str:
    """What is wrong with a command's end; empty if nothing is."""
    # `kubectl auth can-i` says no with its exit code, too.
    expected = 1 if step.command.startswith("kubectl auth can-i ") and step.shown == "no" else 0
    if outcome.code != expected:
        return f"exit code {outcome.code}: {outcome.output}"
    return difference(step.shown, outcome.output)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.page)
def test_a_page_can_be_followed_word_for_word(
    guide: Guide, kubectl: Kubectl, cluster: Settings, client: Client, operator: Kubectl, *, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        if guide.teams:
            stack.enter_context(namespaces_of_teams(kubectl))
        if guide.changes_operator:
            stack.enter_context(operator_set_back(client, operator))
        make_service(guide, kubectl)
        served = pods_of(guide, kubectl)
        folder = checkout(tmp_path / "checkout")
        env = environment(cluster, kubectl.namespace, tmp_path)
        # In the cluster's network, port 8000 of localhost is free.
        own = stack.enter_context(shell(folder, tmp_path / "commands", env, cluster.nsenter()))
        if guide.forwarded:
            forward(own, guide)
        reader = Reader(guide, own, folder)
        for block in blocks(guide.page):
            reader.follow(block, lambda command: before(command, guide, kubectl))
        if served:
            kubectl.wait_ready(guide.service)
            assert served <= pods_of(guide, kubectl), f"{guide.page} has replaced pods"


def forward(shell: Shell, guide: Guide) -> None:
    """Forwards the port of the service and waits until it answers."""
    shell.run(f"kubectl port-forward svc/{guide.service} 8000 &")
    asked = shell.run("curl -s --retry 30 --retry-connrefused --retry-delay 1 http://localhost:8000/health")
    assert asked.code == 0, asked.output


def before(command: str, guide: Guide, kubectl: Kubectl) -> None:
    """Loses the QwenService before the page about backups restores it. Its children stay."""
    if command == "kubectl apply -f qwenservices.json":
        kubectl.run("delete", "qwenservice", guide.service, "--cascade=orphan", "--timeout=60s")


def make_service(guide: Guide, kubectl: Kubectl) -> None:
    """Makes the service that the page finds, and waits until it serves."""
    if guide.engine == "none":
        return
    if guide.engine == "scripted":
        scripted_pods.install(kubectl)
        kubectl.apply(scripted_service(guide.service))
    else:
        kubectl.apply(qwen_service(guide.service))
    kubectl.wait_ready(guide.service)


def pods_of(guide: Guide, kubectl: Kubectl) -> set[str]:
    """The pods of the service that the page found; none if it found none."""
    return set() if guide.engine == "none" else {pod["metadata"]["uid"] for pod in kubectl.pods(guide.service)}


def checkout(folder: Path) -> Path:
    """A folder that looks like a checkout, in which a page may write files."""
    folder.mkdir()
    for entry in ROOT.iterdir():
        if not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry)
    return folder


def environment(cluster: Settings, namespace: str, folder: Path) -> dict[str, str]:
    """A reader's variables: the cluster with this namespace, the programs, names of images."""
    config = yaml.safe_load(cluster.checkout_kubeconfig.read_text(encoding="utf-8"))
    for entry in config["contexts"]:
        entry["context"]["namespace"] = namespace
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")
    kubeconfig.chmod(0o600)
    repository, _, operator_tag = Local(cluster).reference(images.OPERATOR).rpartition(":")
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {
        **inherited,
        "PATH": f"{cluster.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(kubeconfig),
        "PYTHONUTF8": "1",
        "REGISTRY": repository.rpartition("/")[0],
        "OPERATOR_TAG": operator_tag,
        "SERVER_TAG": Local(cluster).reference(images.SERVER).rpartition(":")[2],
    }


@contextmanager
def namespaces_of_teams(kubectl: Kubectl) -> Iterator[None]:
    try:
        for team in TEAMS:
            kubectl.run("create", "namespace", team)
        yield
    finally:
        kubectl.run("delete", "namespace", *TEAMS, "--ignore-not-found", "--timeout=90s")


@contextmanager
def operator_set_back(client: Client, operator: Kubectl) -> Iterator[None]:
    """Gives the operator the values of the tests again, whatever a page has set."""
    operator.run("delete", "secret", METRICS_KEYS, "--ignore-not-found")
    try:
        yield
    finally:
        install_operator(client)
        operator.run("delete", "secret", METRICS_KEYS, "--ignore-not-found")
