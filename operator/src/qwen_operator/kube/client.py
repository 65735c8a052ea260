"""The Kubernetes API, with plain dicts. The only module that imports the Kubernetes client.

Permissions that the operator needs (the chart grants exactly these):

| API group             | resources                         | verbs                                           |
|-----------------------|-----------------------------------|-------------------------------------------------|
| qwen-vllm.io          | qwenservices                      | get, list, watch                                |
| qwen-vllm.io          | qwenservices/status               | patch                                           |
| qwen-vllm.io          | qwenservices/scale                | patch (replicas that the spec leaves out)       |
| qwen-vllm.io          | qwenservices/finalizers           | update (for blockOwnerDeletion on the children) |
| core                  | pods                              | get, list, watch, patch (annotations)           |
| core                  | pods/status                       | patch (the readiness gate)                      |
| core                  | pods/eviction                     | create                                          |
| core                  | services, configmaps              | get, list, watch, create, patch, delete         |
| core                  | events                            | list (why a pod is held up), create, patch      |
| core                  | nodes (optional)                  | get (whether the node of a pod is ready)        |
| apps                  | deployments                       | get, list, watch, create, patch, delete         |
| apps                  | replicasets                       | list                                            |
| batch                 | jobs                              | get, list, watch, create, patch, delete         |
| policy                | poddisruptionbudgets              | get, list, watch, create, patch, delete         |
| monitoring.coreos.com | servicemonitors, prometheusrules  | get, list, watch, create, patch, delete         |
| monitoring.coreos.com | prometheuses (optional)           | list (who scrapes the pods)                     |
| core                  | namespaces (optional)             | list (whether a Prometheus selects them)        |
| networking.k8s.io     | networkpolicies, ingresses        | get, list, watch, create, patch, delete         |
| networking.k8s.io     | ingressclasses (optional)         | list (whether one serves an Ingress)            |
| autoscaling           | horizontalpodautoscalers          | get, list, watch, create, patch, delete         |
| gateway.networking.k8s.io | httproutes                    | get, list, watch, create, patch, delete         |
| keda.sh               | scaledobjects                     | get, list, watch, create, patch, delete         |
| core                  | persistentvolumeclaims            | get, list, watch, create, patch (never deleted) |
| resource.k8s.io       | resourceclaims                    | get (whether one exists that a pod names)       |
| coordination.k8s.io   | leases (in its own namespace)     | get, create, update                             |

Discovery (`/apis/<group>/<version>`) is open to every authenticated client. A test compares the
chart with this table.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Self
from urllib.parse import urlencode
from urllib.request import getproxies_environment

import aiohttp
from kubernetes.aio import client, config

from qwen_operator.api.names import FIELD_MANAGER
from qwen_operator.api.objects import Object
from qwen_operator.kube.errors import KubeError, NotFoundError, TooLargeError, error_of
from qwen_operator.kube.reading import lines, read_body, read_json
from qwen_operator.kube.resources import PODS, Resource, resource_for

PatchType = Literal["merge", "strategic"]

REQUEST_TIMEOUT: Final = 15.0
CONNECTIONS: Final = 100
"""Connections for calls; more calls at once wait for one."""

PAGE: Final = 500
"""Objects of a list that are read at once."""
MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes of an answer, which make up to twenty times as many in memory. A page of a list that has
more is asked for in smaller ones."""
_CHUNK: Final = 64 * 1024

WATCH_SECONDS: Final = 240
WATCH_SILENCE: Final = 100.0
"""After so many seconds without a word, a watch is ended, and the next one shows who still answers.

A bookmark comes about every minute, but not for a kind of which the API server has seen no change
since it started.
"""

_NEVER: Final = "1"
"""A resourceVersion that no object has: etcd gives 2 to its first one."""

_CONTENT_TYPES: Final = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: Object


async def _load(kubeconfig: str | None, connections: int) -> Any:
    configuration = client.Configuration(connection_pool_maxsize=connections)
    if kubeconfig:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration, persist_config=False)
    else:
        config.load_incluster_config(client_configuration=configuration)
    # With it, aiohttp looks for ~/.netrc and for proxies in a thread at each request.
    configuration.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
    return configuration


class KubeClient:
    """The API of one cluster. Every call has a timeout and raises nothing but `KubeError`.

    Watches have connections of their own without a limit, because each keeps one for minutes: with
    many namespaces they would leave none for the calls.
    """

    def __init__(self, api: Any, watching: Any) -> None:
        self._api = api
        self._watching = watching

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Self:
        """Connects with a kubeconfig (the argument or KUBECONFIG) or the pod's ServiceAccount."""
        path = kubeconfig or os.environ.get("KUBECONFIG")
        return cls(client.ApiClient(await _load(path, CONNECTIONS)), client.ApiClient(await _load(path, 0)))

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()
        await self._watching.close()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """One object."""
        return await self._call("GET", resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        selector: str | None = None,
        *,
        fields: str | None = None,
        keep: Callable[[Object], Object] = lambda item: item,
    ) -> tuple[Sequence[Object], str]:
        """The objects that a label selector and a field selector match, and the resourceVersion to
        watch from.

        They are read in pages. `keep` returns what is kept of an object, so that never more than
        one page is in memory as a whole.
        """
        query = {"labelSelector": selector} if selector else {}
        if fields:
            query["fieldSelector"] = fields
        items: list[Object] = []
        limit = PAGE
        while True:
            page, limit = await self._page(resource.path(namespace), query, limit)
            items += [keep(item) for item in _items(resource, page)]
            metadata = page["metadata"]
            if not (following := metadata.get("continue")):
                return items, metadata["resourceVersion"]
            query["continue"] = following
            limit = min(PAGE, 2 * limit)

    async def _page(self, path: str, query: Mapping[str, str], limit: int) -> tuple[Object, int]:
        """A page of a list, and the limit with which it was not too large."""
        while True:
            # One object is read whatever its size: otherwise it would hide all others.
            most = MAX_BODY if limit > 1 else None
            try:
                return await self._call("GET", path, {**query, "limit": str(limit)}, timeout=60.0, most=most), limit
            except TooLargeError:
                limit = max(1, limit // 4)

    async def first(
        self,
        resource: Resource,
        namespace: str,
        fields: str = "",
        *,
        selector: str = "",
        limit: int,
        most: int,
        timeout: float,
    ) -> Sequence[Object]:
        """Up to `limit` of the objects that a field selector and a label selector match.

        Raises `TooLargeError` if they have more than `most` bytes together.
        """
        selectors = {"fieldSelector": fields, "labelSelector": selector}
        query = {name: text for name, text in selectors.items() if text} | {"limit": str(limit)}
        return _items(resource, await self._call("GET", resource.path(namespace), query, timeout=timeout, most=most))

    async def watch(
        self,
        resource: Resource,
        version: str,
        namespace: str | None = None,
        selector: str | None = None,
        seconds: float = WATCH_SECONDS,
    ) -> AsyncGenerator[WatchEvent]:
        """The changes after a resourceVersion, including bookmarks.

        A watch ends after so many seconds, or sooner if nothing comes (`WATCH_SILENCE`). The caller
        continues from the last resourceVersion.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, math.ceil(seconds))),
        }
        if selector:
            query["labelSelector"] = selector
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT, sock_read=WATCH_SILENCE)
        response = await self._send(
            "GET", resource.path(namespace), query, body=None, content_type=None, timeout=timeout, api=self._watching
        )
        try:
            async for line in _lines(response):
                event = _event(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise error_of(int(status.get("code", 500)), json.dumps(status).encode())
                yield WatchEvent(event["type"], event["object"])
        finally:
            response.close()

    async def create(self, obj: Object) -> Object:
        """Creates an object. Raises `ConflictError` if it exists."""
        resource = resource_for(obj)
        return await self._call("POST", resource.path(obj["metadata"].get("namespace")), body=obj)

    async def replace(self, obj: Object) -> Object:
        """Replaces an object.

        Raises `ConflictError` if its resourceVersion is not the current one.
        """
        metadata = obj["metadata"]
        return await self._call("PUT", resource_for(obj).path(metadata.get("namespace"), metadata["name"]), body=obj)

    async def apply(self, obj: Object, *, new: bool = False, dry_run: bool = False) -> Object:
        """Applies an object (server-side apply). Fields that are no longer applied are removed.

        With `new`, raises `ConflictError` if the object exists, and leaves it as it is. With
        `dry_run`, returns what the API server would make of it.
        """
        metadata = obj["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        path = resource_for(obj).path(metadata.get("namespace"), metadata["name"])
        # An existing object has another version, so that the API server refuses to change it.
        body = {**obj, "metadata": {**metadata, "resourceVersion": _NEVER}} if new else obj
        return await self._call("PATCH", path, query, body=body, content_type=_CONTENT_TYPES["apply"], timeout=30.0)

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str,
        body: Object,
        *,
        kind: PatchType = "merge",
        subresource: str | None = None,
    ) -> Object:
        """Merges fields into an object.

        A resourceVersion or UID in the body is a precondition: `ConflictError` if it does not
        match.
        """
        path = resource.path(namespace, name, subresource)
        return await self._call(
            "PATCH", path, {"fieldManager": FIELD_MANAGER}, body=body, content_type=_CONTENT_TYPES[kind]
        )

    async def delete(self, resource: Resource, name: str, namespace: str, *, uid: str | None = None) -> None:
        """Deletes an object and, in the background, what it owns.

        A missing object is not an error.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", resource.path(namespace, name), body=options)
        except NotFoundError:
            return

    async def evict(self, pod: str, namespace: str, *, uid: str, grace_seconds: int | None = None) -> None:
        """Evicts a pod.

        Raises `TooManyRequestsError` if a PodDisruptionBudget forbids it, and `ConflictError` if
        the pod has another UID.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": options,
        }
        await self._call("POST", PODS.path(namespace, pod, "eviction"), body=body)

    async def served(self, api_version: str) -> frozenset[str]:
        """The plurals that the cluster serves of a version of an API group; none if it has none."""
        try:
            answer = await self._call("GET", f"/apis/{api_version}")
        except NotFoundError:
            return frozenset()
        return frozenset(str(item["name"]) for item in answer.get("resources", ()))

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        content_type: str | None = None,
        timeout: float = REQUEST_TIMEOUT,
        most: int | None = MAX_BODY,
    ) -> Object:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=5.0)
        response = await self._send(method, path, query or {}, body=body, content_type=content_type, timeout=limits)
        try:
            answer = read_json(await _body(response, most))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KubeError(0, f"{method} {path}: {error or type(error).__name__}") from error
        return answer if isinstance(answer, dict) else {}

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Object | None,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
        api: Any = None,
    ) -> aiohttp.ClientResponse:
        api = api or self._api
        headers = {"Accept": "application/json", "User-Agent": "qwen-operator"}
        if body is not None:
            headers["Content-Type"] = content_type or "application/json"
        try:
            await api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            url = api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
            wrapped = await api.call_api(method, url, headers, body, _request_timeout=timeout)
            response: aiohttp.ClientResponse = wrapped.response
            if response.status >= 400:
                raise await _error(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(0, f"{method} {path}: {error or type(error).__name__}") from error
        return response


def _items(resource: Resource, page: Object) -> Sequence[Object]:
    """The objects of a list, which does not repeat their kind in each of them."""
    return [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"]]


async def _body(response: aiohttp.ClientResponse, most: int | None) -> bytes:
    """The body of an answer. Raises `TooLargeError` if it has more bytes than `most`."""
    try:
        body = await read_body(response.content.iter_chunked(_CHUNK), most)
    except BaseException:
        response.close()
        raise
    if body is None:
        response.close()
        raise TooLargeError(0, f"{response.method} {response.url.path}: the answer has more than {most} bytes")
    return body


async def _error(response: aiohttp.ClientResponse) -> KubeError:
    try:
        return error_of(response.status, await _body(response, MAX_BODY))
    except TooLargeError:
        return error_of(response.status, b"")


def _event(line: bytes) -> Object:
    try:
        event: Object = read_json(line)
    except ValueError as error:
        raise KubeError(0, f"the watch was interrupted within a line: {error}") from error
    return event


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for line in lines(response.content.iter_any()):
            yield line
    except aiohttp.SocketTimeoutError:
        return
    except (aiohttp.ClientError, TimeoutError) as error:
        raise KubeError(0, f"the watch was interrupted: {error or type(error).__name__}") from error
