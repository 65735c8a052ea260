"""A Job downloads a model from a mirror of the hub, and why it may fail, on the real node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.settings import Settings
from tests.e2e.claims import CLAIM, claimed
from tests.e2e.facts import NAME, REASON_SECONDS, expect
from tests.e2e.hub import hub
from tests.e2e.kubectl import Kubectl, Object, wait_for
from tests.e2e.services import qwen_service
from tests.unit.qwen_server.hub_mirror import REPOSITORY, WEIGHTS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

JOB_SECONDS = 90


@dataclass(frozen=True)
class Case:
    """What is wrong with a hub or a disk, and what the status must say."""

    id: str
    says: Sequence[str]
    repository: str = REPOSITORY
    flags: Sequence[str] = ()
    kib: int = 16 * 1024


FAILURES = (
    Case("404", ("HTTP 404", "check the repository and the revision"), repository="Qwen/Nothing"),
    Case("401", ("HTTP 401", "check the token's Secret"), flags=("--token=secret",)),
    Case("disk-full", ("disk is full", "increase cache.size"), kib=1024),
)


def from_hub(url: str, repository: str) -> Object:
    engine = {"device": "cpu", "env": [{"name": "HF_ENDPOINT", "value": url}]}
    source = {"huggingFace": {"repo": repository}}
    return qwen_service(NAME, model={"source": source}, engine=engine, cache={"existingClaim": CLAIM})


def job_failed(kubectl: Kubectl) -> bool:
    conditions = [item for job in kubectl.find("jobs") for item in job["status"].get("conditions", [])]
    return any(item["type"] == "Failed" and item["status"] == "True" for item in conditions)


def download(kubectl: Kubectl) -> dict[str, Any]:
    found: dict[str, Any] = kubectl.get("qwenservice", NAME).get("status", {}).get("download", {})
    return found


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.id)
def test_reason_of_ready_is_model_download_failed(
    kubectl: Kubectl, cluster: Settings, tmp_path: Path, case: Case
) -> None:
    with hub(cluster, *case.flags) as url, claimed(kubectl, tmp_path, case.kib):
        kubectl.apply(from_hub(url, case.repository))
        expect(kubectl, "ModelDownloadFailed", job_failed, *case.says, fact_seconds=JOB_SECONDS)
        assert download(kubectl)["phase"] == "Failed"
        assert kubectl.find("deployments") == [], "pods were made without the model"


def test_a_hub_that_cannot_be_reached_is_said_while_the_job_tries_again(
    kubectl: Kubectl, cluster: Settings, tmp_path: Path
) -> None:
    with claimed(kubectl, tmp_path, 1024):
        kubectl.apply(from_hub(f"http://{cluster.node_ip}:1", REPOSITORY))
        wait_for(lambda: "cannot be reached" in download(kubectl).get("message", ""), JOB_SECONDS, "no cause")
        kubectl.wait_reason(NAME, "Ready", "ModelDownloading", REASON_SECONDS)
        assert "cannot be reached" in kubectl.condition(NAME, "Ready")["message"]


def test_pods_are_made_after_a_download_that_was_cut(kubectl: Kubectl, cluster: Settings, tmp_path: Path) -> None:
    with hub(cluster, "--cut-after=300000") as url, claimed(kubectl, tmp_path, 16 * 1024):
        kubectl.apply(from_hub(url, REPOSITORY))
        wait_for(lambda: download(kubectl).get("phase") == "Complete", JOB_SECONDS, "the download does not end")
        assert download(kubectl)["progress"] == "100%"
        wait_for(lambda: kubectl.find("deployments"), 10, "no pods are made")
        found = {name for _, _, names in os.walk(tmp_path) for name in names}
        assert {"config.json", "model-00001-of-00002.safetensors"} <= found
        assert download(kubectl)["totalBytes"] >= 2 * len(WEIGHTS)
