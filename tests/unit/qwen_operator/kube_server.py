"""A small HTTP server in place of the Kubernetes API, with the faults that tests ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

Object = dict[str, Any]
KINDS: dict[str, Object] = {"/api": {"versions": ["v1"]}, "/api/v1": {"resources": []}, "/apis": {"groups": []}}
"""What kopf asks for at its start."""

DISCOVERY = 3
"""Slashes in the path of a discovery, such as /apis/apps/v1."""


@dataclass
class Server:
    """The responses of the API server, and the requests to it."""

    answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    asked: list[tuple[str, str, dict[str, str], Any, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        content_type = request.headers.get("Content-Type", "")
        self.asked.append((request.method, request.path, dict(request.query), body, content_type))
        return await self.answer(request)


async def ok(_: web.Request) -> web.StreamResponse:
    """An answer that fits most calls."""
    return web.json_response({"metadata": {"name": "x"}})


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Server, Path]]:
    """A server, and a kubeconfig for it."""
    api = Server(ok)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (folder / "config").write_text(yaml.safe_dump(config))
    yield api, folder / "config"
    await runner.cleanup()


def refusal(status: int, message: str = "no", **details: Any) -> web.Response:
    """A Status object with an error."""
    return web.json_response({"kind": "Status", "message": message, "details": details}, status=status)


async def written(request: web.Request) -> web.Response:
    """The answer to a write: the object with what the API server adds to it."""
    body = await request.json()
    namespace, _, name = [*request.path.split("/namespaces/")[1].split("/"), ""][:3]
    made = {"namespace": namespace, "name": name, "uid": request.path}
    metadata = {**made, **body.get("metadata", {}), "resourceVersion": "100"}
    return web.json_response({**body, "metadata": metadata})


class Objects:
    """The objects of one kind, which it lists and watches. All other kinds are empty.

    Attributes:
        silent: the watches report nothing.
        refuse: an answer instead of a list or a watch, None for none.
        lists, watches: the requests, as (namespace, resourceVersion).
        answers_lists: while it is not set, lists wait for their answers.
    """

    def __init__(self, plural: str = "qwenservices") -> None:
        self.plural = plural
        self.version = 10
        self.items: dict[tuple[str, str], Object] = {}
        self.silent = False
        self.refuse: Callable[[web.Request], web.Response | None] = lambda _: None
        self.answers_lists = asyncio.Event()
        self.answers_lists.set()
        self.lists: list[str] = []
        self.watches: list[tuple[str, str]] = []
        self._streams: list[tuple[str, asyncio.Queue[bytes | None]]] = []
        self._quiet: set[int] = set()

    def put(self, obj: Object, *, quietly: bool = False) -> None:
        """Creates or changes an object. Quietly means that no watch reports it."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        kind = "MODIFIED" if key in self.items else "ADDED"
        self.items[key] = obj
        if quietly:
            self._quiet.add(self.version)
        else:
            self._report(kind, obj)

    def delete(self, name: str, namespace: str = "n", *, quietly: bool = False) -> None:
        """Deletes an object, which is reported with the version of its deletion."""
        obj = self.items.pop((namespace, name))
        self.version += 1
        if not quietly:
            metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
            self._report("DELETED", {**obj, "metadata": metadata})

    def send(self, line: bytes) -> None:
        """Sends a line to all watches."""
        for _, queue in self._streams:
            queue.put_nowait(line + b"\n")

    def end_watches(self) -> None:
        """Ends the watches that are open."""
        for _, queue in self._streams:
            queue.put_nowait(None)

    def _report(self, kind: str, obj: Object) -> None:
        for namespace, queue in self._streams:
            if not self.silent and namespace in ("", obj["metadata"]["namespace"]):
                queue.put_nowait(json.dumps({"type": kind, "object": obj}).encode() + b"\n")

    def _replay(self, stream: tuple[str, asyncio.Queue[bytes | None]], since: int) -> None:
        for obj in self.items.values():
            version = int(obj["metadata"]["resourceVersion"])
            if version > since and version not in self._quiet and not self.silent:
                stream[1].put_nowait(json.dumps({"type": "MODIFIED", "object": obj}).encode() + b"\n")

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        ours = request.path.endswith(f"/{self.plural}")
        namespace = request.path.split("/namespaces/")[1].split("/")[0] if "/namespaces/" in request.path else ""
        refused = self.refuse(request) if ours else None
        if request.query.get("watch"):
            if ours:
                self.watches.append((namespace, request.query["resourceVersion"]))
            return refused or await self._watch(request, namespace, ours=ours)
        if ours:
            self.lists.append(namespace)
            await self.answers_lists.wait()
            items = [obj for key, obj in self.items.items() if namespace in ("", key[0])]
            return refused or web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        if request.path in KINDS:
            return web.json_response(KINDS[request.path])
        if request.path.count("/") == DISCOVERY and request.path.startswith("/apis"):
            return refusal(404)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    async def _watch(self, request: web.Request, namespace: str, *, ours: bool) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        stream: tuple[str, asyncio.Queue[bytes | None]] = (namespace, asyncio.Queue())
        if ours:
            self._streams.append(stream)
            self._replay(stream, int(request.query["resourceVersion"]))
        try:
            while line := await stream[1].get():
                await response.write(line)
        except ConnectionResetError:
            pass  # the client has ended the watch
        finally:
            if ours:
                self._streams.remove(stream)
        return response


async def until(check: Callable[[], Any], seconds: float = 30.0) -> None:
    """Waits until a check is true."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
