"""The pictures of the dashboards, which `make pictures` draws: all are there, small and shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from charts.dashboards import documents

ROOT = Path(__file__).resolve().parents[3]
PICTURES = ROOT / "docs" / "pictures"
LARGEST = 300_000


@pytest.mark.parametrize("uid", documents())
def test_each_dashboard_has_a_small_picture_that_its_page_shows(uid: str) -> None:
    content = (PICTURES / f"{uid}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 10_000 < len(content) < LARGEST
    page = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    assert f"](pictures/{uid}.png)" in page


def test_there_is_no_picture_of_anything_else() -> None:
    assert {path.name for path in PICTURES.iterdir()} == {f"{uid}.png" for uid in documents()}


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_shows_the_service_during_the_incident(name: str) -> None:
    assert "](docs/pictures/qwen-service.png)" in (ROOT / name).read_text(encoding="utf-8")
