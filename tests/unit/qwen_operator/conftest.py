"""Fixtures of the operator's unit tests: an HTTP server in place of the Kubernetes API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qwen_operator.kube.client import KubeClient
from tests.unit.qwen_operator.kube_server import Server, running


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """The server, to which KUBECONFIG points."""
    async with running(tmp_path) as (api, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield api


@pytest.fixture
async def kube(server: Server) -> AsyncIterator[KubeClient]:
    """A client of the server."""
    assert server
    client = await KubeClient.connect()
    yield client
    await client.close()
