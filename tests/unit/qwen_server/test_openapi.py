"""The description of the API: whole, true to the server, and shown by pages that load nothing from
elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import pytest_asyncio

from generate_openapi import main
from qwen_server.api.openapi.document import document, for_task
from qwen_server.api.routes.server import tokenizer_router
from qwen_server.app import ADMIN_ROUTERS, ROUTERS
from qwen_server.config.values import Task
from tests.unit.qwen_server.serving import Served, make_settings, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES = [route for router in (*ROUTERS, tokenizer_router, *ADMIN_ROUTERS) for route in router.routes]
DOCUMENT = document(ROUTES, make_settings())
ELSEWHERE = re.compile(r"[a-z]+://|^//")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server with all paths that settings add."""
    folder = tmp_path_factory.mktemp("admins")
    (folder / "ops").write_text("root\n")
    async with serve(admin_api_keys_dir=folder, enable_tokenizer_info_endpoint=True) as served:
        yield served


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def resolve(reference: str) -> Any:
    node: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def check(instance: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(instance)


def operations() -> list[dict[str, Any]]:
    return [operation for path in DOCUMENT["paths"].values() for operation in path.values()]


def references() -> set[str]:
    return {node["$ref"] for node in walk(DOCUMENT) if "$ref" in node}


WITH_A_KEY = ("/tokenize", "/detokenize", "/pooling", "/score", "/classify")


async def test_every_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    for reference in references():
        assert resolve(reference)
    parts = {
        f"#/components/{group}/{name}" for group in ("schemas", "examples") for name in DOCUMENT["components"][group]
    }
    assert parts <= references()


async def test_a_key_may_be_sent_in_either_way_or_not_at_all() -> None:
    """As OpenAI's and as Anthropic's SDKs do; whether one is needed is a setting."""
    ways = {
        (scheme["type"], scheme.get("scheme") or scheme["name"]): name
        for name, scheme in DOCUMENT["components"]["securitySchemes"].items()
    }
    wanted: list[dict[str, list[str]]] = [{}, {ways["http", "bearer"]: []}, {ways["apiKey", "x-api-key"]: []}]
    assert len(ways) == 2
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            if operation["tags"] == ["administration"]:
                assert operation["security"] == wanted[1:], "an administrator always needs a key"
            else:
                optional = path.startswith(("/v1/", *WITH_A_KEY))
                assert operation.get("security") == (wanted if optional else None)


def examples_of(media: dict[str, Any]) -> list[Any]:
    """The examples of a media type, those by reference included."""
    named = [resolve(example["$ref"])["value"] for example in media.get("examples", {}).values()]
    return [*named, media["example"]] if "example" in media else named


async def test_every_example_fits_its_schema() -> None:
    bodies = [*DOCUMENT["components"]["responses"].values()]
    for operation in operations():
        bodies += [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [response for response in operation["responses"].values() if "$ref" not in response]
    for kind, media in (item for body in bodies for item in body["content"].items()):
        assert examples_of(media)
        for example in examples_of(media):
            for part in events_of(example) if kind == "text/event-stream" else [example]:
                check(part, media["schema"])


def events_of(stream: str) -> list[dict[str, str]]:
    events = [event.split("\n") for event in stream.rstrip().split("\n\n")]
    return [dict(line.split(": ", 1) for line in lines) for lines in events]


async def test_every_operation_says_what_it_is_and_what_it_answers() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert len({operation["operationId"] for operation in operations()}) == len(operations())
    for operation in operations():
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= tags
        for response in operation["responses"].values():
            content = resolve(response["$ref"])["content"] if "$ref" in response else response["content"]
            assert all(media["schema"] for media in content.values())
        assert not {"422", "default"} & set(operation["responses"])


async def test_generation_documents_every_way_it_can_end() -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        responses = DOCUMENT["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "400", "401", "404", "408", "413", "415", "429", "500", "503"}
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    for name in ("ServiceUnavailable", "TooManyRequests"):
        assert DOCUMENT["components"]["responses"][name]["headers"]["Retry-After"]["required"]


async def test_the_limits_and_defaults_are_those_that_are_set() -> None:
    settings = make_settings(max_tokens_limit=4096, default_max_tokens=7, max_temperature=2.0, max_choices=2)
    for name in ("ChatRequest", "CompletionRequest"):
        fields = document(ROUTES, settings)["components"]["schemas"][name]["properties"]
        assert fields["max_tokens"]["anyOf"][0]["maximum"] == 4096
        assert fields["max_tokens"]["default"] == 7
        assert fields["temperature"]["anyOf"][0]["maximum"] == 2
        assert fields["n"]["anyOf"][0]["maximum"] == 2


async def test_the_answers_of_the_server_are_as_described(served: Served) -> None:
    for _ in range(2):
        assert (await served.chat()).status_code == 200
    assert (await served.chat('@{"fail": "CUDA out of memory"}')).status_code == 500
    for path, name in (
        ("/api/v1/metrics", "Metrics"),
        ("/health", "Health"),
        ("/health/generate", "Probe"),
        ("/v1/models", "ModelList"),
        ("/v1/models/qwen-news-classifier", "Model"),
        ("/version", "Version"),
        ("/load", "Load"),
        ("/tokenizer_info", "TokenizerInfo"),
    ):
        check((await served.client.get(path)).json(), {"$ref": f"#/components/schemas/{name}"})
    for method, path, name in (
        ("POST", "/reset_prefix_cache", "CacheReset"),
        ("POST", "/sleep", "Slept"),
        ("GET", "/is_sleeping", "IsSleeping"),
        ("GET", "/health", "Health"),
        ("GET", "/api/v1/metrics", "Metrics"),
        ("POST", "/wake_up", "WokenUp"),
    ):
        response = await served.client.request(method, path, headers={"x-api-key": "root"})
        check(response.json(), {"$ref": f"#/components/schemas/{name}"})


async def test_the_server_gives_the_description_of_itself(served: Served) -> None:
    described = (await served.client.get("/openapi.json")).json()
    assert described == for_task(DOCUMENT, "generate")


@pytest.mark.parametrize("task", get_args(Task))
async def test_a_server_describes_only_what_it_answers(task: Task) -> None:
    async with serve(task=task) as other:
        described = (await other.client.get("/openapi.json")).json()
        posts = {path for path, methods in described["paths"].items() if "post" in methods}
        for path in {path for path, methods in DOCUMENT["paths"].items() if "post" in methods}:
            missing = (await other.client.post(path, json={})).status_code == 404
            assert (path in posts) != missing, path


async def test_the_committed_file_is_checked_for_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    assert main(["--root", str(tmp_path), "--check"]) == 1
    assert "make manifests" in capsys.readouterr().err
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--root", str(tmp_path), "--check"]) == 0
    path = tmp_path / "docs" / "openapi.json"
    path.write_text(path.read_text(encoding="utf-8").replace("512", "513"), encoding="utf-8")
    assert main(["--root", str(tmp_path), "--check"]) == 1


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_page_loads_only_what_the_server_has(served: Served, page: str) -> None:
    response = await served.client.get(page)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script(?![^>]* src=)", response.text), "the policy forbids scripts inside the page"
    addresses = re.findall(r'(?:src|href|spec-url)="([^"]*)"', response.text)
    assert addresses
    for address in addresses:
        assert not ELSEWHERE.search(address)
        loaded = await served.client.get(f"/{address}")
        assert loaded.status_code == 200
        assert loaded.content


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_page_may_not_load_anything_else(served: Served, page: str) -> None:
    policy = (await served.client.get(page)).headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == "'self'"
    assert not ELSEWHERE.search(policy)


async def test_only_the_pages_own_files_are_served(served: Served) -> None:
    for name in ("nothing.js", "..%2fcore.py", "%2e%2e/core.py", "swagger-ui.css/x"):
        response = await served.client.get(f"/docs/{name}")
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "not_found_error"
