"""Where the server listens: on all addresses of both families, or where `--host` says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from qwen_server.config.command_line import load_settings
from qwen_server.config.patches import Patches
from qwen_server.config.settings import ConfigurationError
from qwen_server.download import progress
from qwen_server.http.asgi import Receive, Scope, Send, send_json
from qwen_server.http.connections import uvicorn_config
from qwen_server.http.listeners import plain_address
from qwen_server.runner import listen
from tests.loopback import ADDRESSES, url
from tests.unit.qwen_server.serving import make_settings, on_uvloop, until


def reached(port: int) -> list[str]:
    """The loopback addresses where a port accepts connections."""
    found = []
    for host in ADDRESSES:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
            found.append(host)
    return found


async def addresses(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what a log or a limit would take for the client, and its own address."""
    await send_json(send, 200, {"client": scope["client"][0], "server": scope["server"][0]})


@contextlib.asynccontextmanager
async def serving(**values: Any) -> AsyncIterator[int]:
    """The port of a server with these settings that answers with the addresses of a request."""
    settings = make_settings(port=0, **values)
    config = uvicorn_config(addresses, settings, Patches(settings.patches))
    config.lifespan = "off"
    server = uvicorn.Server(config)
    with listen(settings) as listener:
        task = asyncio.create_task(server._serve([listener]))
        await until(lambda: server.started or task.done())
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await task


@on_uvloop
async def test_by_default_both_families_are_served_and_clients_have_their_plain_address() -> None:
    async with serving() as port, httpx.AsyncClient(trust_env=False) as client:
        found = [(await client.get(url(host, port))).json() for host in ADDRESSES]
    assert found == [{"client": host, "server": host} for host in ADDRESSES]


@pytest.mark.parametrize("host", [*ADDRESSES, "0.0.0.0", *(["::"] if "::1" in ADDRESSES else [])])
def test_a_host_that_is_set_is_of_one_family(host: str) -> None:
    with listen(make_settings(host=host, port=0)) as listener:
        assert reached(listener.getsockname()[1]) == ["::1" if ":" in host else "127.0.0.1"]


def test_no_host_is_none_in_each_way() -> None:
    assert load_settings([]).host is load_settings(["--host="]).host is None


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_system_whose_ipv6_is_off_is_served_on_ipv4(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], *, family: int = socket.AF_INET, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(number, "it is off")
        return create(address, **options)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with listen(make_settings(port=0)) as listener:
        assert reached(listener.getsockname()[1]) == ["127.0.0.1"]


def test_a_system_without_ipv6_is_served_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen(make_settings(port=0)) as listener:
        assert reached(listener.getsockname()[1]) == ["127.0.0.1"]


@pytest.mark.parametrize("host", ADDRESSES)
def test_a_port_that_one_family_has_taken_is_not_served_on_the_other(host: str) -> None:
    with listen(make_settings(host=host, port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"^--port {port}: .*in use"):
            listen(make_settings(port=port))


@pytest.mark.parametrize(
    ("shown", "plain"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::ffff:1", "fd00::ffff:1"),
        ("::ffff:0:102:304", "::ffff:0:102:304"),
        ("::1", "::1"),
    ],
)
def test_an_address_is_shown_as_people_know_it(shown: str, plain: str) -> None:
    assert plain_address(shown) == plain


def test_both_families_may_ask_for_the_progress_of_a_download() -> None:
    server = progress.serve(progress.Tracker(), None, 0)
    try:
        found = [httpx.get(f"{url(host, server.server_port)}/progress", trust_env=False) for host in ADDRESSES]
    finally:
        server.shutdown()
        server.server_close()
    assert [response.json()["phase"] for response in found] == ["Starting" for _ in ADDRESSES]
