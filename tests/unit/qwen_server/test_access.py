"""Keys, rate limits and CORS over HTTP: who gets access, and the errors for the others."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from pydantic import SecretStr

from qwen_server.app import create_app
from qwen_server.control.lifecycle import Lifecycle
from tests.scripted_engine import ScriptedEngine
from tests.unit.qwen_server.serving import Served, make_settings, serve
from tests.unit.qwen_server.test_client_errors import error_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"authorization": "Bearer key-1"}
METRICS = ("/api/v1/metrics", "/stats", "/metrics", "/metrics/prometheus", "/prometheus/metrics")
OPEN = ("/health", "/health/live", "/health/ready", "/health/generate", "/ping", "/version")
HEALTH = ("/health", "/health/live", "/health/ready", "/health/generate")
PAGE = {"origin": "https://page.example", "access-control-request-method": "POST"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    """A server with keys that protects everything it can."""
    async with serve(api_keys=SecretStr("key-1,key-2"), protect_metrics=True, protect_docs=True) as served:
        yield served


async def test_without_a_key_nothing_but_health_answers(served: Served) -> None:
    found = [
        (route.path, method) for route in served.app.routes if isinstance(route, APIRoute) for method in route.methods
    ]
    found += [("/docs", "GET"), ("/redoc", "GET"), ("/openapi.json", "GET")]
    assert {path for path, _ in found} >= {*HEALTH, *METRICS, "/v1/chat/completions", "/v1/models"}
    for path, method in found:
        response = await served.client.request(method, path.replace("{model_id:path}", "x"))
        assert response.status_code == (200 if path in OPEN else 401), path


async def test_a_missing_or_wrong_key_is_a_401_in_openais_shape(served: Served) -> None:
    before = served.service.figures.counters.outcomes["rejected"]
    for headers in ({}, {"authorization": "Bearer key-3"}, {"authorization": "Bearer key-1 key-2"}, {"x-api-key": ""}):
        response = await served.client.post("/v1/completions", json={"prompt": "x"}, headers=headers)
        error = error_of(response, 401)
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
    assert served.service.figures.counters.outcomes["rejected"] == before + 4


async def test_each_key_opens_every_door(served: Served) -> None:
    for headers in (KEY, {"authorization": "bearer key-2"}, {"x-api-key": "key-2"}):
        response = await served.client.post("/v1/completions", json={"prompt": "x"}, headers=headers)
        assert response.status_code == 200
        for path in ("/v1/models", *METRICS):
            assert (await served.client.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/nothing",
        "/v1",
        "/v1//models",
        "/tokenize",
        "/detokenize",
        "/v1/models/x",
        "/pooling",
        "/rerank",
        "/v2/rerank",
        "/score",
        "/classify",
    ],
)
async def test_strangers_do_not_learn_which_paths_exist(served: Served, path: str) -> None:
    error_of(await served.client.post(path), 401)


async def test_no_spelling_of_a_path_gets_past_the_guard(served: Served) -> None:
    for path in ("/%76%31/models", "//v1/models", "/v1/../v1/models", "/V1/models", "/metrics/", "/metrics/../stats"):
        response = await served.client.get(path)
        assert response.status_code in (401, 404), path
        assert "data" not in response.json()


async def test_metrics_and_docs_are_open_by_default() -> None:
    async with serve(api_keys=SecretStr("key-1")) as served:
        for path in METRICS:
            assert (await served.client.get(path)).status_code == 200
        assert (await served.client.get("/openapi.json")).status_code == 200
        error_of(await served.client.get("/v1/models"), 401)


async def test_keys_of_a_folder_change_while_it_serves(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\ntwo\n")
    async with serve(api_keys_dir=tmp_path) as served:
        assert (await served.client.get("/v1/models", headers={"x-api-key": "two"})).status_code == 200
        (tmp_path / "keys").write_text("one-more\n")
        served.service.tick()
        assert (await served.client.get("/v1/models", headers={"x-api-key": "two"})).status_code == 401
        assert (await served.client.get("/v1/models", headers={"x-api-key": "one-more"})).status_code == 200


async def test_each_key_has_its_own_rate() -> None:
    async with serve(api_keys=SecretStr("key-1,key-2"), rate_limit="2/hour") as served:
        assert (await served.client.get("/health")).json()["limits"]["rate_limit"] == "2/hour"
        responses = [await served.client.post("/v1/completions", json={"prompt": "x"}, headers=KEY) for _ in range(3)]
        assert [response.status_code for response in responses[:2]] == [200, 200]
        error = error_of(responses[2], 429)
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "2/hour" in error["message"]
        assert 1 <= int(responses[2].headers["retry-after"]) <= 3600
        assert (await served.client.get("/v1/models", headers=KEY)).status_code == 200
        other = await served.client.post("/v1/completions", json={"prompt": "x"}, headers={"x-api-key": "key-2"})
        assert other.status_code == 200
        for _ in range(3):  # strangers use up nobody's allowance
            error_of(await served.client.post("/v1/completions", json={"prompt": "x"}), 401)
        counters = served.service.figures.counters
        assert (counters.outcomes["successful"], counters.outcomes["rejected"]) == (3, 4)


async def test_pages_of_other_origins_are_answered_without_cors_by_default(served: Served) -> None:
    response = await served.client.post("/v1/completions", json={"prompt": "x"}, headers=KEY | PAGE)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert "CORSMiddleware" not in repr(served.app.user_middleware) + repr(served.app.middleware_stack)


async def test_a_page_of_a_listed_origin_may_call_the_api() -> None:
    origins = "https://page.example, http://localhost:3000"
    async with serve(api_keys=SecretStr("key-1"), cors_origins=origins) as served:
        asked = PAGE | {"access-control-request-headers": "authorization, content-type"}
        preflight = await served.client.options("/v1/chat/completions", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://page.example"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        stranger = await served.client.options(
            "/v1/chat/completions", headers=asked | {"origin": "https://evil.example"}
        )
        assert stranger.status_code == 400
        assert "access-control-allow-origin" not in stranger.headers

        body = {"prompt": "x", "stream": True}
        response = await served.client.post("/v1/completions", json=body, headers=KEY | PAGE)
        assert response.status_code == 200
        assert response.text.endswith("data: [DONE]\n\n")
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        exposed = response.headers["access-control-expose-headers"].lower()
        assert all(name in exposed for name in ("x-request-id", "retry-after", "server-timing"))
        refused = await served.client.post("/v1/completions", json=body, headers=PAGE)
        assert refused.status_code == 401  # and the page may read why
        assert refused.headers["access-control-allow-origin"] == "https://page.example"


async def test_any_origin_may_be_allowed_and_a_client_that_leaves_is_noticed() -> None:
    async with serve(cors_origins="*") as served:
        script = '@{"tokens": 200, "delay": 0.05}'
        async with served.client.stream(
            "POST", "/v1/completions", json={"prompt": script, "stream": True}, headers=PAGE
        ) as response:
            assert response.headers["access-control-allow-origin"] == "*"
            await anext(response.aiter_bytes())
        await served.until_idle()
        assert served.engine.aborted == 1


async def test_no_key_is_ever_in_the_settings_text() -> None:
    settings = make_settings(api_keys=SecretStr("very-secret"))
    assert "very-secret" not in repr(settings)
    assert "very-secret" not in str(create_app(settings, ScriptedEngine(), Lifecycle()).state.service.__dict__)


async def test_a_metrics_token_opens_the_metrics_and_nothing_else(tmp_path: Path) -> None:
    hashed = hashlib.sha256(b"of-the-operator").hexdigest()
    (tmp_path / "prometheus").write_text("of-prometheus\n")
    (tmp_path / "operator").write_text(f"sha256:{hashed}\n")
    async with serve(api_keys=SecretStr("key-1"), metrics_tokens_dir=tmp_path) as served:
        for token in ("of-prometheus", "of-the-operator", "key-1"):
            for path in METRICS:
                response = await served.client.get(path, headers={"authorization": f"Bearer {token}"})
                assert response.status_code == 200, (token, path)
        for token in (hashed, f"sha256:{hashed}", "other"):
            error_of(await served.client.get("/metrics", headers={"authorization": f"Bearer {token}"}), 401)
        for path in METRICS:
            error_of(await served.client.get(path), 401)
        error_of(await served.client.get("/v1/models", headers={"authorization": "Bearer of-prometheus"}), 401)
        for path in HEALTH:
            assert (await served.client.get(path)).status_code == 200


async def test_metrics_tokens_leave_an_open_api_open_and_change_while_it_serves(tmp_path: Path) -> None:
    (tmp_path / "prometheus").write_text("old\n")
    async with serve(metrics_tokens_dir=tmp_path) as served:
        assert (await served.client.get("/v1/models")).status_code == 200
        assert (await served.client.get("/openapi.json")).status_code == 200
        error_of(await served.client.get("/api/v1/metrics"), 401)
        assert (await served.client.get("/api/v1/metrics", headers={"x-api-key": "old"})).status_code == 200
        (tmp_path / "prometheus").write_text("newer\n")
        served.service.tick()
        error_of(await served.client.get("/api/v1/metrics", headers={"x-api-key": "old"}), 401)
        assert (await served.client.get("/api/v1/metrics", headers={"x-api-key": "newer"})).status_code == 200
