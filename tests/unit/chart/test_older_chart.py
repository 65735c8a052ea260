"""The chart from which the end-to-end tests upgrade: it renders, and its CRD is older."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charts import generate

from tests.e2e.releases import VERSION, older_chart

from .conftest import CHART, template


def rendered(chart: Path) -> dict[str, Any]:
    """The objects of a chart by kind."""
    result = template(chart=chart)
    assert result.returncode == 0, result.stderr
    return {manifest["kind"]: manifest for manifest in generate.documents(result.stdout)}


def test_the_older_chart_has_an_older_definition(tmp_path: Path) -> None:
    older, current = (rendered(chart) for chart in (older_chart(tmp_path), CHART))
    versions = [
        int(found["CustomResourceDefinition"]["metadata"]["annotations"][VERSION]) for found in (older, current)
    ]
    assert versions[0] < versions[1]
    labels = [found["Deployment"]["metadata"]["labels"]["helm.sh/chart"] for found in (older, current)]
    assert labels[0] != labels[1]
