"""docs/reference.zh-CN.md is written by hand, and names every field of the generated reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
# Below these, the fields are Kubernetes' own.
KUBERNETES = (
    "spec.engine.env[].",
    "spec.monitoring.networkPolicyFrom[].",
    "spec.networkPolicy.from[].",
    "spec.scheduling.affinity.",
    "spec.scheduling.tolerations[].",
    "spec.scheduling.topologySpreadConstraints[].",
)
# What the page explains as a whole.
STATUS_PARTS = ("status.conditions[].", "status.download.", "status.remediation.")


class Field(NamedTuple):
    """A row of the generated reference."""

    kind: str
    default: str


def generated() -> dict[str, Field]:
    rows = re.findall(r"^\| `((?:spec|status)\.[^`]+)` \|.*", text("reference.md"), re.MULTILINE)
    found = {}
    for line in text("reference.md").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) > 4 and re.fullmatch(r"`(?:spec|status)\.\S+`", cells[1]):
            found[cells[1].strip("`")] = Field(cells[2], cells[3].replace("**required**", ""))
    assert len(found) == len(rows) > 150
    return found


def translated() -> dict[str, str]:
    """The fields of the page, each with its default."""
    rows = re.findall(r"^\| `((?:spec|status)\.[^`]+)` \| ?(.*?) ?\|", text("reference.zh-CN.md"), re.MULTILINE)
    assert len(rows) == len({field for field, _ in rows}), "a field has two rows"
    return dict(rows)


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def wanted() -> dict[str, Field]:
    """The fields that the page must name."""
    return {name: field for name, field in generated().items() if not name.startswith((*KUBERNETES, *STATUS_PARTS))}


def test_every_field_is_named_and_no_other() -> None:
    missing, unknown = wanted().keys() - translated().keys(), translated().keys() - generated().keys()
    assert (sorted(missing), sorted(unknown)) == ([], [])


def test_the_periods_of_the_probes_are_those_of_the_definition() -> None:
    found = re.findall(r"`spec\.probes\.(\w+)` \|.*?每 (\d+) 秒", text("reference.zh-CN.md"))
    wanted_periods = re.findall(r"`spec\.probes\.(\w+)` \|.*?every (\d+) s", text("reference.md"))
    assert len(wanted_periods) == 3
    assert found == wanted_periods


def test_every_default_is_that_of_the_definition() -> None:
    ours = translated()
    wrong = {
        name: (ours[name], field.default)
        for name, field in wanted().items()
        # The default of an object follows from those of its fields.
        if name.startswith("spec.") and field.kind != "object" and ours[name] != field.default
    }
    assert wrong == {}
