"""What the workflow of a release takes from this checkout: its notes, and the chart's values."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.console import Problem
from tests.cluster.settings import ROOT

CHART = ROOT / "charts" / "qwen-operator"
CHANGELOG = ROOT / "CHANGELOG.md"
_UNRELEASED = "unreleased"
# The values that name an image without its registry, each on a line of its own.
_IMAGES = (
    re.compile(r"^(  repository: )(qwen-operator)$", re.MULTILINE),
    re.compile(r"^(  cpu: )(qwen-server:\S+-cpu)$", re.MULTILINE),
    re.compile(r"^(  cuda: )(qwen-server:\S+-cuda)$", re.MULTILINE),
)


def notes(changelog: str, version: str) -> str:
    """The changelog's section of a version, without its heading.

    Raises Problem if there is none, if it is empty, or if its heading still says that the version
    is not released.
    """
    sections = re.split(r"^## +", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, body = section.partition("\n")
        if heading.split()[:1] == [version]:
            if _UNRELEASED in heading.lower():
                raise Problem(f"CHANGELOG.md says that {version} is unreleased", f"write: ## {version} (YYYY-MM-DD)")
            if not body.strip():
                raise Problem(f"CHANGELOG.md says nothing about {version}", "list what has changed")
            return body.strip() + "\n"
    raise Problem(f"CHANGELOG.md has no section for {version}", f"write: ## {version} (YYYY-MM-DD)")


def require_version(chart: str, version: str) -> None:
    """Raise Problem unless Chart.yaml, given as text, has this version in both places."""
    found = dict(re.findall(r'^(version|appVersion): "?([^"\s]+)"?$', chart, re.MULTILINE))
    if found != {"version": version, "appVersion": version}:
        raise Problem(f"the tag says {version}, and Chart.yaml says {found}", "the tag is v and the chart's version")


def version() -> str:
    """The version of the chart, which the images have too."""
    (found,) = re.findall(r"^version: (\S+)$", (CHART / "Chart.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def with_registry(values: str, registry: str) -> str:
    """values.yaml with the registry in front of the images that the release has pushed there.

    Raises Problem if an image is not found, so that no chart refers to images that nobody has.
    """
    for image in _IMAGES:
        values, count = image.subn(rf"\g<1>{registry}/\g<2>", values)
        if count != 1:
            raise Problem(f"values.yaml has {count} lines like {image.pattern}", "adapt tests/cluster/release.py")
    return values


def print_notes(version: str) -> None:
    """Print the notes of a version, which the chart must have. Raises Problem."""
    require_version((CHART / "Chart.yaml").read_text(encoding="utf-8"), version)
    print(notes(CHANGELOG.read_text(encoding="utf-8"), version), end="")


def set_registry(registry: str, values: Path = CHART / "values.yaml") -> None:
    """Write the registry into the chart's values. Raises Problem."""
    values.write_text(with_registry(values.read_text(encoding="utf-8"), registry), encoding="utf-8")
