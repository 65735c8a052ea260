"""The chart's releases on a control plane of their own, for the tests of the chart."""

from __future__ import annotations

import os
import subprocess

import pytest
from charts import generate

from tests.cluster.settings import ROOT
from tests.integration.control_plane import ControlPlane

SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
OURS = "app.kubernetes.io/instance=qwen-operator"
CHART = str(generate.CHART)
CRD = "qwenservices.qwen-vllm.io"

both = pytest.mark.parametrize("program", ["helm", "helm4/helm"], indirect=True)
"""Runs a test with Helm 3 and with Helm 4, which uses server-side apply."""


def helm(plane: ControlPlane, *arguments: str, program: str = "helm", namespace: str = generate.NAMESPACE) -> str:
    """Runs helm as administrator in the operator's namespace; fails with its error output."""
    result = run_helm(plane, *arguments, program=program, namespace=namespace)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refusal(plane: ControlPlane, *arguments: str, program: str = "helm", namespace: str = generate.NAMESPACE) -> str:
    """What helm says as it refuses to run."""
    result = run_helm(plane, *arguments, program=program, namespace=namespace)
    assert result.returncode != 0, result.stdout
    return " ".join(result.stderr.split())


def run_helm(plane: ControlPlane, *arguments: str, program: str, namespace: str) -> subprocess.CompletedProcess[str]:
    command = [generate.find_helm(program), *arguments, "--namespace", namespace]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "HELM_CACHE_HOME": str(plane.folder / "helm")}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def names(plane: ControlPlane, kinds: str, selector: str = OURS) -> set[str]:
    listed = plane.kubectl("get", kinds, "--all-namespaces", "-l", selector, "-o", "name", "--ignore-not-found")
    return set(listed.split())
