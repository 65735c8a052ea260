"""The pages whose commands a test executes as they stand, and what each of them finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Engine = Literal["none", "scripted", "built-in"]


@dataclass(frozen=True)
class Guide:
    """A page, and what is there when its first command runs."""

    page: str
    engine: Engine = "none"
    """That of the service; with `none` there is no service, and the page may make it."""
    service: str = "chat"
    forwarded: bool = False
    """Whether the service answers at http://localhost:8000, as the page takes for granted."""
    changes_operator: bool = False
    """Whether the page upgrades the operator, which is set back afterwards."""
    teams: bool = False
    """Whether the page takes the namespaces team-a and team-b for granted."""


GUIDES = (
    Guide("README.md", "scripted"),
    Guide("docs/quickstart.md", changes_operator=True),
    Guide("docs/adapters.md"),
    Guide("docs/api.md", "built-in", forwarded=True),
    Guide("docs/autoscaling.md", "scripted"),
    Guide("docs/backup.md", "scripted"),
    Guide("docs/capacity.md"),
    Guide("docs/clients.md", "scripted", forwarded=True),
    Guide("docs/clients-claude-code.md", "scripted"),
    Guide("docs/clients-codex.md", "scripted"),
    Guide("docs/debug.md", "scripted"),
    Guide("docs/gpu.md"),
    Guide("docs/models.md", "built-in"),
    Guide("docs/monitoring.md", changes_operator=True),
    Guide("docs/operations.md", "scripted", changes_operator=True, teams=True),
    Guide("docs/secure.md", changes_operator=True, teams=True),
    Guide("docs/upgrade.md", "scripted", changes_operator=True),
)
# Pages in Chinese have the commands of the English ones, so that running one counts for both.
TRANSLATED = {
    "README.md": "README.zh-CN.md",
    "docs/quickstart.md": "docs/quickstart.zh-CN.md",
    "docs/api.md": "docs/api.zh-CN.md",
}
# Pages with blocks that are not executed, and why. A folder stands for its pages.
OTHERS = {
    "CONTRIBUTING.md": "runs the tests",
    "charts/qwen-operator/README.md": "its placeholders are the names of released images",
    "docs/administration.md": "runs in tests/unit/docs/test_administration.py and "
    "tests/integration/test_vllm_further_apis.py",
    "docs/architecture.md": "runs the operator outside the cluster",
    "docs/compatibility.md": "checks a release, and none has been published",
    "docs/dashboards.md": "needs Grafana; tests/unit/chart/test_pictures.py draws the pictures",
    "docs/embeddings.md": "needs servers of three kinds; tests/integration/test_vllm_pooling.py runs its examples",
    "docs/images.md": "needs a model that reads images; tests/integration/test_vllm_images.py runs its example",
    "docs/reference.zh-CN.md": "its example is the one of docs/gpu.md in short",
    "docs/tenants.md": "runs on one machine; tests/unit/qwen_server/test_tenants.py executes it",
    "docs/runbooks": "needs an incident; its commands name the service of an alert",
}
