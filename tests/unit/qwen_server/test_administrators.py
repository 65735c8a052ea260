"""The keys of administrators: who may use the admin paths, and what the others see."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from qwen_server import app as application
from qwen_server.api.routes.common import AdminRoute
from tests.unit.qwen_server.serving import Served, serve
from tests.unit.qwen_server.test_client_errors import error_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTER = APIRouter(route_class=AdminRoute)
PATHS = ("/turn", "/v1/turn")


@ROUTER.post("/turn", response_model=None)
@ROUTER.post("/v1/turn", response_model=None)
async def turn(_: Request) -> Response:
    return JSONResponse({"turned": True})


@pytest.fixture(scope="module", autouse=True)
def a_router() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "ADMIN_ROUTERS", (*application.ADMIN_ROUTERS, ROUTER))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("admins")
    (folder / "ops").write_text("# of the operators\nroot\n")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(folder: Path) -> AsyncIterator[Served]:
    async with serve(api_keys="user", admin_api_keys_dir=folder) as served:
        yield served


async def post(served: Served, path: str, key: str | None) -> httpx.Response:
    return await served.client.post(path, headers={} if key is None else {"authorization": f"Bearer {key}"})


@pytest.mark.parametrize("path", PATHS)
async def test_an_administrators_key_opens_an_admin_path(served: Served, path: str) -> None:
    assert (await post(served, path, "root")).json() == {"turned": True}
    assert (await served.client.post(path, headers={"x-api-key": "root"})).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", [None, "wrong"])
async def test_without_a_key_that_is_known_the_answer_is_401(served: Served, path: str, key: str | None) -> None:
    response = await post(served, path, key)
    error = error_of(response, 401)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", PATHS)
async def test_an_ordinary_key_is_a_403_that_says_what_is_needed(served: Served, path: str) -> None:
    error = error_of(await post(served, path, "user"), 403)
    assert (error["type"], error["code"]) == ("permission_error", "admin_key_required")
    assert "administrator" in error["message"]


async def test_an_administrators_key_is_an_api_key_as_well(served: Served) -> None:
    for key, status in (("root", 200), ("user", 200), ("wrong", 401)):
        response = await served.client.get("/v1/models", headers={"x-api-key": key})
        assert response.status_code == status, key


@pytest.mark.parametrize("path", PATHS)
async def test_without_the_setting_admin_paths_do_not_exist(path: str) -> None:
    async with serve() as served:
        for method in ("GET", "POST", "OPTIONS"):
            error = error_of(await served.client.request(method, path, headers={"x-api-key": "root"}), 404)
            assert error == error_of(await served.client.request(method, f"{path}x"), 404) | {
                "message": f"there is no {path}"
            }


async def test_without_api_keys_only_the_admin_paths_need_a_key(folder: Path) -> None:
    async with serve(admin_api_keys_dir=folder) as served:
        assert (await served.client.get("/v1/models")).status_code == 200
        error_of(await post(served, "/turn", None), 401)
        error_of(await post(served, "/turn", "user"), 401)
        assert (await post(served, "/turn", "root")).status_code == 200


async def test_keys_of_administrators_change_while_it_serves(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("old\n")
    async with serve(admin_api_keys_dir=tmp_path) as served:
        assert (await post(served, "/turn", "old")).status_code == 200
        (tmp_path / "ops").write_text("newer\n")
        served.service.tick()
        error_of(await post(served, "/turn", "old"), 401)
        assert (await post(served, "/turn", "newer")).status_code == 200


async def test_an_empty_folder_lets_no_administrator_in(tmp_path: Path) -> None:
    async with serve(admin_api_keys_dir=tmp_path) as served:
        for key in (None, "root"):
            error_of(await post(served, "/turn", key), 401)
