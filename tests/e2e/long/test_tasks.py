"""A pod that classifies, with the classifier that docs/embeddings.md makes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.console import Problem
from tests.cluster.settings import ROOT, Settings
from tests.e2e.claims import CLAIM, claimed
from tests.e2e.clients import restarts, service_url
from tests.e2e.kubectl import Kubectl, wait_for
from tests.e2e.pages import status
from tests.e2e.services import ask_through_service, qwen_service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "news"
MODEL = "news-classes"
TEXTS = ["请分类：央行宣布降息25个基点\n类别：", "请分类：苹果发布新款iPhone\n类别："]


def make_classifier(folder: Path) -> Path:
    """Makes the model in a folder as the page says. Returns where it is."""
    page = (ROOT / "docs" / "embeddings.md").read_text(encoding="utf-8")
    [make] = re.findall(r"^```python\n(import json\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    (folder / "server").symlink_to(ROOT / "server")
    subprocess.run([sys.executable, "-c", make], cwd=folder, check=True, timeout=300)
    return folder / MODEL


def test_a_pod_of_the_task_classify_answers_with_classes(kubectl: Kubectl, cluster: Settings, tmp_path: Path) -> None:
    made, disk = tmp_path / "made", tmp_path / "disk"
    made.mkdir()
    disk.mkdir()
    model = make_classifier(made)
    with claimed(kubectl, disk, 64 * 1024):
        shutil.copytree(model, disk / MODEL)
        for path in (disk / MODEL, *(disk / MODEL).iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)  # the server is another user
        source = {"pvc": {"claimName": CLAIM, "path": MODEL}}
        kubectl.apply(qwen_service(NAME, model={"source": source, "task": "classify"}))
        kubectl.wait_ready(NAME, timeout=480)
        models = f"{service_url(kubectl, NAME)}/v1/models"
        wait_for(lambda: status(cluster, models) == 200, 30, "kube-proxy leads to no pod")
        answer = ask_through_service(kubectl, cluster, NAME, "/classify", {"input": TEXTS})
        assert [item["label"] for item in answer["data"]] == ["财经", "科技"]
        assert all(sum(item["probs"]) == pytest.approx(1, abs=1e-3) for item in answer["data"])
        assert answer["model"] == MODEL
        chat = {"messages": [{"role": "user", "content": TEXTS[0]}]}
        with pytest.raises(Problem, match="HTTP Error 404"):
            ask_through_service(kubectl, cluster, NAME, "/v1/chat/completions", chat)
        [pod] = kubectl.pods(NAME)
        assert restarts(kubectl, pod["metadata"]["name"]) == 0
