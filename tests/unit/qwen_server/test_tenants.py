"""Tenants over HTTP: the key tells who asks, and nobody takes the model from the others."""

import asyncio
import contextlib
import math
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen_server.config.command_line import load_settings
from qwen_server.http.api_keys import ApiKeys
from tests.unit.qwen_server.serving import Served, serve, until

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tenants.md"
# A busy machine delays single requests, and the longest of a round is compared.
_ROUNDS = 4
FOREVER = '@{"first": 30}'


def key(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-of-{tenant}"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    for tenant in ("greedy", "modest"):
        (tmp_path / tenant).write_text(f"key-of-{tenant}\n")
    return tmp_path


async def ask(served: Served, tenant: str, prompt: str = "x", **headers: str) -> httpx.Response:
    return await served.client.post("/v1/completions", json={"prompt": prompt}, headers=key(tenant) | headers)


@contextlib.asynccontextmanager
async def flood(served: Served, tenant: str, count: int) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """`count` requests that never end, one after the other."""
    tasks: list[asyncio.Task[httpx.Response]] = []
    for number in range(count):
        tasks.append(asyncio.create_task(ask(served, tenant, FOREVER)))
        await until(lambda number=number: sum(served.service.admission.counts_of(tenant)) == number + 1)  # type: ignore[misc]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def page_of(served: Served) -> dict[str, float]:
    text = (await served.client.get("/metrics/prometheus")).text
    return {
        name: float(value)
        for line in text.splitlines()
        if line.startswith("qwen_")
        for name, _, value in [line.rpartition(" ")]
    }


async def test_a_full_queue_of_one_tenant_refuses_that_one_and_not_another(keys: Path) -> None:
    async with (
        serve(api_keys_dir=keys, tenant_weights={"modest": 2}) as served,
        flood(served, "greedy", 13) as greedy,
        flood(served, "modest", 1) as modest,
    ):
        response = await greedy[-1]
        assert response.status_code == 503
        assert response.json() == {"error": "服务繁忙，请稍后重试", "queue_size": 10, "max_queue_size": 10}
        assert 1 <= int(response.headers["retry-after"]) <= 30
        figures = await page_of(served)
        assert figures['qwen_tenant_requests_waiting{tenant="modest"}'] == 1
        assert figures['qwen_tenant_requests_waiting{tenant="greedy"}'] == 9
        assert figures['qwen_tenant_requests_running{tenant="greedy"}'] == 3
        assert figures['qwen_tenant_weight{tenant="modest"}'] == 2
        assert figures['qwen_refusals_total{reason="displaced"}'] == 1
        assert figures['qwen_tenant_requests_total{tenant="greedy",outcome="refused"}'] == 1
        assert (await ask(served, "greedy")).status_code == 503
        greedy[0].cancel()
        await until(lambda: served.service.admission.counts_of("modest") == (0, 1))
        assert not modest[0].done()


async def test_only_the_key_tells_who_the_tenant_is(keys: Path) -> None:
    async with serve(api_keys_dir=keys) as served:
        response = await ask(served, "greedy", **{"x-tenant": "modest", "x-api-key-name": "modest"})
        assert response.status_code == 200
        assert set(served.service.figures.tenants) == {"greedy"}
        assert (await ask(served, "nobody")).status_code == 401
        assert set(served.service.figures.tenants) == {"greedy"}


async def test_a_tenant_without_a_key_has_no_figures() -> None:
    async with serve() as served:
        await served.chat()
        assert not [name for name in await page_of(served) if name.startswith("qwen_tenant")]


async def test_another_tenant_waits_for_one_slot_and_not_for_the_queue(keys: Path) -> None:
    """The greedy tenant has forty clients on four slots, ten times as many as it has slots."""
    script = '@{"tokens": 3, "first": 0.15, "delay": 0.03}'

    async def first_tokens(served: Served) -> list[float]:
        queued = []
        for _ in range(12):
            response = await ask(served, "modest", script)
            timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
            queued.append(float(timing["queue"]) + float(timing["prefill"]))
        return sorted(queued)

    async def send(served: Served) -> None:
        while True:
            await ask(served, "greedy", script)

    settings: dict[str, Any] = {
        "api_keys_dir": keys,
        "tenant_reserve": 1,
        "max_concurrent_requests": 4,
        "max_queue_size": 50,
    }
    async with serve(**settings) as served:
        alone = await first_tokens(served)
        clients = [asyncio.create_task(send(served)) for _ in range(40)]
        await until(lambda: served.service.admission.waiting > 30)
        await ask(served, "modest", script)  # from here on, the reserve knows that it is here
        ratios: list[float] = []
        while len(ratios) < _ROUNDS and min(ratios, default=math.inf) > 1.2:
            ratios.append((await first_tokens(served))[-1] / alone[-1])
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    ratio = min(ratios)
    print(f"\nlongest time to the first token beside a greedy tenant, over that alone: {ratio:.2f}")
    assert ratio <= 1.2


async def test_tenants_beyond_the_hundredth_are_counted_together(tmp_path: Path) -> None:
    for number in range(103):
        (tmp_path / f"t{number}").write_text(f"key-of-t{number}\n")
    async with serve(api_keys_dir=tmp_path) as served:
        for number in range(103):
            assert (await ask(served, f"t{number}")).status_code == 200
        figures = await page_of(served)
    assert figures['qwen_tenant_requests_total{tenant="(others)",outcome="successful"}'] == 3
    assert 'qwen_tenant_weight{tenant="(others)"}' not in figures
    assert len([name for name in figures if name.startswith("qwen_tenant_weight")]) == 100


async def test_a_name_that_is_not_utf_8_does_not_take_the_metrics_away(tmp_path: Path) -> None:
    (tmp_path / "m\udcfcller").write_text("key-of-x\n")  # in Latin-1
    async with serve(api_keys_dir=tmp_path) as served:
        assert (await ask(served, "x")).status_code == 200
        assert (await page_of(served))['qwen_tenant_weight{tenant="m?ller"}'] == 1


def test_of_two_files_with_one_key_the_first_one_names_the_tenant(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("same\n")
    (tmp_path / "a").write_text("same\n")
    keys = ApiKeys(tmp_path)
    assert keys.tenant_of(keys.caller([(b"x-api-key", b"same")])) == "a"


def _commands(page: str) -> Iterator[tuple[str, str]]:
    """Each command of the page, and what it prints."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *rest = re.split(r"(?<!\\)\n", part, maxsplit=1)
            yield command, "".join(rest)


async def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = list(_commands(PAGE.read_text(encoding="utf-8")))
    [server] = [command for command, _ in commands if command.startswith("qwen-server ")]
    begin = [command for command, _ in commands].index(server)
    for command, _ in commands[:begin]:
        subprocess.run(["bash", "-c", command], check=True)  # noqa: ASYNC221 (nothing is served yet)
    given = load_settings(server.split()[1:])
    values = {name: getattr(given, name) for name in given.model_fields_set - {"pass_through"}}
    async with serve(**values) as served:
        assert len(commands) == begin + 4
        for command, expected in commands[begin + 1 :]:
            shell = command.replace("http://localhost:8000", served.url)
            process = await asyncio.create_subprocess_exec("bash", "-c", shell, stdout=subprocess.PIPE)
            printed, _ = await process.communicate()
            assert printed.decode() == expected
