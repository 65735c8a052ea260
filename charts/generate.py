"""Writes the files that are derived from the chart and the CRD, or checks them with --check.

    python -m charts.generate [--check]

- charts/qwen-operator/files/: copies of manifests/crd.yaml, of the sample and of values.yaml,
  because a template can only read other files of the chart;
- the definitions of Kubernetes' types in charts/qwen-operator/values.schema.json;
- charts/qwen-operator/dashboards/*.json, from the package dashboards;
- the table of values in charts/qwen-operator/README.md, from the comments of values.yaml;
- manifests/install.yaml, the chart rendered for users without Helm; its copy in manifests/base and
  manifests/overlays/monitoring/monitoring.yaml for kustomize.

Needs helm in PATH or in the cache of `make deps`. Exit codes: 0 if all files are up to date, 1 if
one is not or helm is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from charts.dashboards import documents as dashboards
from charts.dashboards import layout
from charts.values_schema import PATH as VALUES_SCHEMA
from charts.values_schema import with_definitions

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "qwen-operator"
INSTALL = ROOT / "manifests" / "install.yaml"
BASE = ROOT / "manifests" / "base" / "install.yaml"
MONITORING = ROOT / "manifests" / "overlays" / "monitoring" / "monitoring.yaml"
README = CHART / "README.md"
DASHBOARDS = CHART / "dashboards"
COPIES = {
    CHART / "files" / "crd.yaml": ROOT / "manifests" / "crd.yaml",
    CHART / "files" / "sample.yaml": ROOT / "manifests" / "samples" / "qwen-news-classifier.yaml",
    CHART / "files" / "defaults.yaml": CHART / "values.yaml",
}
NAMESPACE = "qwen-system"
KUBE_VERSION = "1.34.0"
"""The version to render for without a cluster. A helm built with `go build` alone assumes 1.20."""
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
INSTALL_HEADER = f"""\
# Generated from charts/qwen-operator by `python -m charts.generate`; do not edit.
# All objects for the operator, in the namespace {NAMESPACE}:
#   kubectl apply --server-side -f manifests/install.yaml
# Replace the three images qwen-operator:1.0.0, qwen-server:1.0.0-cpu and qwen-server:1.0.0-cuda
# with the names in your registry. The chart has more settings.
"""


MONITORING_HEADER = """\
# Generated from charts/qwen-operator by `python -m charts.generate`; do not edit.
# How the Prometheus Operator finds the operator of install.yaml, and alerts about it.
"""


class GenerateError(Exception):
    """Something that the user has to fix. The message says what."""


def documents(text: str) -> list[Any]:
    """The documents of a YAML text that are not empty. Uses libyaml, because the CRD is long."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def find_helm(program: str = "helm") -> str:
    """The helm that `make deps` built (`helm4/helm` is the other one), or one in PATH."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen-vllm" / "bin" / program
    if cache.is_file():
        return str(cache)
    found = shutil.which(program)
    if found is None:
        raise GenerateError(f"{program} is missing: not in PATH and not at {cache}; `make deps` builds it")
    return found


def render(*options: str) -> str:
    """The chart's manifests for kubectl, without the tests."""
    command = [find_helm(), "template", "qwen-operator", str(CHART), "--namespace", NAMESPACE]
    command += ["--kube-version", KUBE_VERSION, "--skip-tests", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if result.returncode:
        raise GenerateError(f"helm template failed: {result.stderr.strip()}")
    return result.stdout


class _Dense(dict[str, Any]):
    """A part of a manifest that is written in as few lines as possible."""


yaml.SafeDumper.add_representer(
    _Dense, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)


def with_dense_pod_schema(manifest: dict[str, Any]) -> dict[str, Any]:
    """The CRD with the schema of pods, which is Kubernetes' own, in few lines."""
    (version,) = manifest["spec"]["versions"]
    path = ["schema", "openAPIV3Schema", "properties", "spec", "properties", "podTemplate", "properties", "spec"]
    pod = lookup(version, path)
    pod["properties"] = _Dense(pod["properties"])
    return manifest


def for_kubectl(manifest: dict[str, Any]) -> dict[str, Any]:
    """Removes what makes sense only for Helm, which does not manage these objects."""
    places = [manifest["metadata"]]
    if manifest["kind"] == "Deployment":
        places.append(manifest["spec"]["template"]["metadata"])
        # It says what Helm would do with the CRD.
        manifest["metadata"].pop("annotations", None)
    for metadata in places:
        metadata["labels"].pop("helm.sh/chart", None)
        # Without this label, kubectl can take over a CRD that Helm has kept, without a conflict.
        metadata["labels"].pop("app.kubernetes.io/managed-by", None)
    return with_dense_pod_schema(manifest) if manifest["kind"] == "CustomResourceDefinition" else manifest


def install_manifests() -> list[dict[str, Any]]:
    """The objects of install.yaml in the order of applying."""
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    return [namespace, *map(for_kubectl, documents(render("--set", "crds.keep=false")))]


def monitoring_manifests() -> list[dict[str, Any]]:
    """The objects by which the Prometheus Operator monitors the operator of install.yaml."""
    switches = [f"monitoring.{part}.enabled=true" for part in ("serviceMonitor", "prometheusRule")]
    rendered = documents(render("--set", ",".join(switches)))
    return [for_kubectl(item) for item in rendered if item["kind"] in ("ServiceMonitor", "PrometheusRule")]


def values_table() -> str:
    """A Markdown table of every value that has a `# --` comment, with its default."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    path: list[str] = []
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    comment = ""
    for line in text.splitlines():
        if line.strip().startswith("# -- "):
            comment = line.strip().removeprefix("# -- ")
        elif line.strip().startswith("#") and comment:
            comment += " " + line.strip().removeprefix("#").strip()
        elif match := re.match(r"^( *)([A-Za-z]+):", line):
            depth = len(match[1]) // 2
            path = [*path[:depth], match[2]]
            if comment:
                rows.append(f"| `{'.'.join(path)}` | `{flow(lookup(defaults, path))}` | {comment} |")
            comment = ""
    return "\n".join(rows)


def lookup(values: Any, path: list[str]) -> Any:
    """The value at a path of keys."""
    for key in path:
        values = values[key]
    return values


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.replace("\n...", "").strip().replace("''", '""').replace("|", "\\|")


def readme() -> str:
    """The chart's README with its table replaced."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{values_table()}\n{END}{rest.split(END, 1)[1]}"


def stale(check: bool) -> list[Path]:
    """Updates every derived file, or with `check` none; returns those that were out of date."""
    outdated: list[Path] = []

    def settle(path: Path, wanted: str, same: bool) -> None:
        if not same:
            outdated.append(path)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(wanted, encoding="utf-8")

    for copy, source in COPIES.items():
        wanted = source.read_text(encoding="utf-8")
        settle(copy, wanted, copy.is_file() and copy.read_text(encoding="utf-8") == wanted)
    schema = json.loads(VALUES_SCHEMA.read_text(encoding="utf-8"))
    complete = with_definitions(schema)
    settle(VALUES_SCHEMA, json.dumps(complete, indent=2) + "\n", complete == schema)
    made = {DASHBOARDS / f"{uid}.json": layout(document) + "\n" for uid, document in dashboards().items()}
    for path, wanted in made.items():
        settle(path, wanted, path.is_file() and path.read_text(encoding="utf-8") == wanted)
    for path in sorted(set(DASHBOARDS.glob("*.json")) - made.keys()):
        outdated.append(path)
        if not check:
            path.unlink()
    wanted = readme()
    settle(README, wanted, README.read_text(encoding="utf-8") == wanted)
    manifests = install_manifests()
    for path, header, wished in (
        (INSTALL, INSTALL_HEADER, manifests),
        (BASE, INSTALL_HEADER, manifests),
        (MONITORING, MONITORING_HEADER, monitoring_manifests()),
    ):
        # Compared as objects: versions of helm lay out the same YAML differently.
        current = documents(path.read_text(encoding="utf-8")) if path.is_file() else []
        body = yaml.safe_dump_all(wished, sort_keys=False, width=120, allow_unicode=True)
        settle(path, f"{header}---\n{body}", current == wished)
    return outdated


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Write the files that are derived from the chart and the CRD.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of date")
    check = parser.parse_args().check
    try:
        outdated = stale(check)
    except (GenerateError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    for path in outdated:
        done = "written" if path.exists() else "removed"
        print(f"{path.relative_to(ROOT)} {'is out of date: run python -m charts.generate' if check else done}")  # noqa: T201
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
