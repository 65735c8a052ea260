"""LoRA adapters in the server: who gets one, what administrators may do, which file it follows."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from qwen_server.config.command_line import load_settings
from qwen_server.config.settings import ConfigurationError
from qwen_server.control.adapters import AdapterError, Adapters
from qwen_server.control.adapters_file import Source, parse_declared
from qwen_server.engine.adapter_files import CONFIG, WEIGHTS
from qwen_server.engine.base import Adapter, EngineError, InvalidRequestError
from qwen_server.observe.observation import AdapterState
from qwen_server.observe.request_figures import MOST_ADAPTERS, RequestFigures, RequestRecord
from tests.scripted_engine import ScriptedEngine
from tests.unit.qwen_server.serving import Served, make_settings, serve, until
from tests.unit.qwen_server.test_client_errors import error_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = {"x-api-key": "root"}
MODEL = "qwen-news-classifier"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`inside` is the allowed folder, with adapters and a link out of it."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "admins").mkdir()
    (folder / "admins" / "ops").write_text("root\n")
    for name in ("inside/news", "inside/sport", "outside/secret"):
        (folder / name).mkdir(parents=True)
    (folder / "inside" / "link").symlink_to(folder / "outside" / "secret")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(folders: Path) -> AsyncIterator[Served]:
    async with serve(
        enable_lora=True,
        served_model_name=f"{MODEL} second-name",
        admin_api_keys_dir=folders / "admins",
        lora_dirs=(folders / "inside",),
        max_cpu_loras=2,
    ) as served:
        yield served


async def load(served: Served, name: str, path: Path | str, **fields: Any) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(path)} | fields
    return await served.client.post("/v1/load_lora_adapter", json=body, headers=ADMIN)


async def unload(served: Served, name: str) -> httpx.Response:
    return await served.client.post("/v1/unload_lora_adapter", json={"lora_name": name}, headers=ADMIN)


@pytest_asyncio.fixture(loop_scope="module")
async def news(served: Served, folders: Path) -> AsyncIterator[str]:
    assert (await load(served, "news", folders / "inside" / "news")).status_code == 200
    yield "news"
    await unload(served, "news")


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("more", [{}, {"stream": True}])
async def test_the_model_of_a_request_chooses_the_adapter(
    served: Served, news: str, path: str, more: dict[str, Any]
) -> None:
    response = await served.client.post(path, json=BODIES[path] | more | {"model": news})
    assert response.status_code == 200, response.text
    assert served.engine.adapters[served.engine.bodies[-1]["model"]].name == news
    if not more:
        assert response.json()["model"] == news
    await served.client.post(path, json=BODIES[path] | {"model": MODEL})
    assert served.engine.bodies[-1]["model"] == MODEL


async def test_an_unknown_name_stays_a_404(served: Served, news: str) -> None:
    for name in ("sport", "news@1", "news@", ""):
        error = error_of(await served.chat(model=name), 404)
        assert (error["param"], error["code"]) == ("model", "model_not_found")


async def test_models_lists_adapters_with_their_parent_and_root(served: Served, news: str, folders: Path) -> None:
    cards = (await served.client.get("/v1/models")).json()["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [(MODEL, None), ("second-name", MODEL), (news, MODEL)]
    assert cards[2]["root"] == str(folders / "inside" / "news")
    assert (await served.client.get(f"/v1/models/{news}")).json() == cards[2]
    error_of(await served.client.get("/v1/models/sport"), 404)


@pytest.mark.parametrize(
    ("body", "status_and_words"),
    [
        ({"lora_name": "x", "lora_path": "outside/secret"}, (403, "--lora-dirs")),
        ({"lora_name": "x", "lora_path": "inside/link"}, (403, "--lora-dirs")),
        ({"lora_name": "x", "lora_path": "inside/../outside/secret"}, (403, "--lora-dirs")),
        ({"lora_name": "x", "lora_path": "inside/missing"}, (400, "missing is not a folder")),
        ({"lora_name": "x", "lora_path": "inside/a\0b"}, (403, "--lora-dirs")),
        ({"lora_name": "news", "lora_path": "inside/sport"}, (400, "load_inplace")),
        ({"lora_name": MODEL, "lora_path": "inside/sport"}, (400, "a name of the model itself")),
        ({"lora_name": "second-name", "lora_path": "inside/sport"}, (400, "a name of the model itself")),
        ({"lora_name": "a b", "lora_path": "inside/sport"}, (400, "no space")),
        ({"lora_name": "", "lora_path": "inside/sport"}, (400, "lora_name")),
        ({"lora_path": "inside/sport"}, (400, "lora_name")),
        ({"lora_name": "x", "lora_path": "inside/sport", "is_3d_lora_weight": True}, (400, "is_3d_lora_weight")),
        ({"lora_name": "x", "lora_path": "inside/sport", "load_inplace": "yes"}, (400, "load_inplace")),
    ],
)
async def test_an_adapter_that_cannot_be_loaded_is_named_and_changes_nothing(
    served: Served, news: str, folders: Path, body: dict[str, Any], status_and_words: tuple[int, str]
) -> None:
    status, words = status_and_words
    before = dict(served.engine.adapters)
    path = f"{folders}/{body['lora_path']}"
    response = await served.client.post("/v1/load_lora_adapter", json=body | {"lora_path": path}, headers=ADMIN)
    assert words in error_of(response, status)["message"]
    assert served.engine.adapters == before
    assert (await served.chat(model=news)).status_code == 200


async def test_a_relative_path_is_refused(served: Served) -> None:
    assert "--lora-dirs" in error_of(await load(served, "x", "inside/news"), 403)["message"]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
async def test_a_file_behind_a_link_out_of_the_folders_is_refused(
    served: Served, folders: Path, tmp_path: Path, name: str
) -> None:
    (folders / "outside" / name).write_text("{}")
    linked, link = tmp_path / "linked", folders / "inside" / f"linked-{name}"
    link.mkdir()
    (link / name).symlink_to(folders / "outside" / name)
    linked.symlink_to(link)
    for path in (link, linked):
        error = error_of(await load(served, "linked", path), 403)
        assert error["param"] == "lora_path"
        assert error["message"] == f"{name} is a link that leads out of {folders / 'inside'} (--lora-dirs)"
    (link / name).unlink()
    (folders / "inside" / f"blob-{name}").write_text("{}")
    (link / name).symlink_to(folders / "inside" / f"blob-{name}")  # as in the cache of a hub
    assert (await load(served, "linked", link)).status_code == 200
    assert (await unload(served, "linked")).status_code == 200


async def test_a_link_that_is_changed_after_the_check_leads_nowhere_else(
    served: Served, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, allowed = folders / "inside" / "changing", Adapters._allowed
    link.symlink_to(folders / "inside" / "news")

    def checked(self: Adapters, path: str) -> Path:
        folder = allowed(self, path)
        link.unlink()
        link.symlink_to(folders / "outside" / "secret")
        return folder

    monkeypatch.setattr(Adapters, "_allowed", checked)
    assert (await load(served, "x", link)).status_code == 200
    assert [adapter.folder for adapter in served.engine.adapters.values()] == [folders / "inside" / "news"]
    await unload(served, "x")


async def test_of_two_who_load_one_name_at_the_same_time_one_is_refused(served: Served, folders: Path) -> None:
    async with served.service.adapters._loading:
        asked = [asyncio.create_task(load(served, "x", folders / "inside" / folder)) for folder in ("news", "sport")]
        await until(lambda: served.service.adapters._turn("x")._waiters)
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    await unload(served, "x")


async def test_an_adapter_is_unloaded_after_a_load_that_was_asked_for_before(served: Served, folders: Path) -> None:
    """A load waits for a restart of the engine, and would serve the adapter again afterwards."""
    inside = folders / "inside"
    assert (await load(served, "x", inside / "news")).status_code == 200
    async with served.service.adapters._loading:
        loading = asyncio.create_task(load(served, "x", inside / "sport", load_inplace=True))
        await until(lambda: served.service.adapters._loading._waiters)
        unloading = asyncio.create_task(unload(served, "x"))
        await until(lambda: served.service.adapters._turn("x")._waiters)
    assert [(await each).status_code for each in (loading, unloading)] == [200, 200]
    assert served.service.adapters.served() == {}
    assert served.engine.adapters == {}


async def test_another_adapter_is_unloaded_while_one_is_loaded(served: Served, folders: Path) -> None:
    assert (await load(served, "x", folders / "inside" / "news")).status_code == 200
    async with served.service.adapters._loading:
        assert (await unload(served, "x")).status_code == 200


async def test_an_adapter_that_was_replaced_is_unloaded_with_the_one_in_its_place(
    served: Served, folders: Path
) -> None:
    assert (await load(served, "x", folders / "inside" / "news")).status_code == 200
    answer = asyncio.create_task(served.chat('@{"tokens": 20, "delay": 0.05}', model="x", max_tokens=100))
    await until(lambda: served.engine.unfinished == 1)
    assert (await load(served, "x", folders / "inside" / "sport", load_inplace=True)).status_code == 200
    assert (await unload(served, "x")).status_code == 200
    assert answer.done() or served.engine.unfinished == 0
    assert served.engine.adapters == {}
    assert (await answer).status_code == 200


async def test_an_engine_that_sleeps_gets_no_adapter(tmp_path: Path, folders: Path) -> None:
    """Its memory is not there."""
    file = tmp_path / "adapters.json"
    async with serve(enable_lora=True, admin_api_keys_dir=folders / "admins", adapters_file=file) as served:
        adapters = served.service.adapters
        await adapters.start()
        assert (await served.client.post("/sleep", headers=ADMIN)).status_code == 200
        write(file, {"name": "news", "path": str(folders / "inside" / "news")})
        for _ in range(3):
            served.service.tick()
            await asyncio.sleep(0.01)
        assert served.engine.adapters == {}
        assert (await served.client.post("/wake_up", headers=ADMIN)).status_code == 200
        served.service.tick()
        await until(lambda: served.engine.adapters)


async def test_names_and_places_of_adapters_can_be_written_as_utf_8() -> None:
    for entry in ({"name": "a\ud800", "path": "/x"}, {"name": "a", "path": "/\ud800"}):
        with pytest.raises(ValueError, match="surrogate"):
            parse_declared({"adapters": [entry]})


async def test_what_the_engine_refuses_is_a_400_with_its_cause(served: Served, folders: Path) -> None:
    served.engine.adapter_error = InvalidRequestError("its rank is 64", param="lora_path")
    try:
        error = error_of(await load(served, "sport", folders / "inside" / "sport"), 400)
    finally:
        served.engine.adapter_error = None
    assert (error["message"], error["param"]) == ("its rank is 64", "lora_path")
    assert (await load(served, "sport", folders / "inside" / "sport")).status_code == 200
    assert (await unload(served, "sport")).text == "Success: LoRA adapter 'sport' removed successfully."


@pytest.mark.parametrize(("restarts", "status"), [(3, 503), (0, 500)])
async def test_an_engine_that_dies_while_it_loads_an_adapter_is_a_503_if_another_one_comes(
    folders: Path, monkeypatch: pytest.MonkeyPatch, restarts: int, status: int
) -> None:
    where: dict[str, Any] = {"admin_api_keys_dir": folders / "admins", "lora_dirs": (folders / "inside",)}
    async with serve(enable_lora=True, engine_restarts=restarts, **where) as dying:

        async def dies(adapter: Adapter) -> None:
            dying.engine.die("the engine was killed")
            raise EngineError(f"the engine died while it loaded the adapter {adapter.name}")

        monkeypatch.setattr(dying.engine, "add_adapter", dies)
        answer = await load(dying, "news", folders / "inside" / "news")
        assert (answer.status_code, answer.headers.get("retry-after")) == (status, "5" if restarts else None)
        assert ("正在重启" in answer.json()["error"]) == bool(restarts)


async def test_more_adapters_than_fit_are_refused(served: Served, news: str, folders: Path) -> None:
    assert (await load(served, "sport", folders / "inside" / "sport")).status_code == 200
    error = error_of(await load(served, "third", folders / "inside" / "sport"), 400)
    assert "--max-cpu-loras" in error["message"]
    assert (await load(served, "news", folders / "inside" / "sport", load_inplace=True)).status_code == 200
    await unload(served, "sport")


async def test_an_adapter_in_use_is_unloaded_after_its_last_request(served: Served, folders: Path) -> None:
    assert (await load(served, "slow", folders / "inside" / "news")).status_code == 200
    served.engine.hang()
    answer = asyncio.create_task(served.chat(model="slow"))
    await until(lambda: served.engine.unfinished)
    ending = asyncio.create_task(unload(served, "slow"))
    await until(lambda: served.service.adapters.find("slow") is None)
    error_of(await served.chat(model="slow"), 404)
    assert not ending.done()
    assert len(served.engine.adapters) == 1
    # The name is free at once, and nothing of the old adapter is used for the new one.
    assert (await load(served, "slow", folders / "inside" / "sport")).status_code == 200
    assert len(served.engine.adapters) == 2
    served.engine.resume()
    assert (await answer).status_code == 200
    assert (await ending).status_code == 200
    assert [adapter.folder.name for adapter in served.engine.adapters.values()] == ["sport"]
    await unload(served, "slow")


async def test_an_adapter_that_leaves_while_a_request_is_read_is_a_404(served: Served, news: str) -> None:
    adapter = served.service.adapters.find(news)
    assert adapter is not None
    await unload(served, news)
    with pytest.raises(AdapterError):
        served.service.adapters.hold(adapter)
    error_of(await unload(served, news), 404)


async def test_metrics_and_the_log_name_the_adapter(
    served: Served, news: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="qwen_server.access")
    assert (await served.chat(model=news)).status_code == 200
    await until(lambda: caplog.records)
    assert caplog.records[-1].__dict__["adapter"] == news
    body = await served.metrics()
    source = str(served.service.adapters.served()[news])
    state = {"name": news, "source": source, "state": "loaded", "loaded": True, "reason": ""}
    assert body["adapters"] == [state]
    served.app.state.prometheus._rendered = None
    page = (await served.client.get("/metrics/prometheus")).text
    assert f'qwen_adapter_loaded{{adapter="{news}"}} 1' in page
    assert f'qwen_adapter_requests_total{{adapter="{news}",outcome="successful"}} ' in page
    assert f'qwen_adapter_tokens_total{{adapter="{news}",kind="output"}} ' in page


async def test_the_figures_of_adapters_are_bounded() -> None:
    figures = RequestFigures()
    for number in range(MOST_ADAPTERS + 2):
        figures.turn_away(RequestRecord("x", 0.0, adapter=f"a{number}"), "rejected", "x")
    assert len(figures.counters.adapters) == MOST_ADAPTERS
    assert "a0" not in figures.counters.adapters


async def test_without_adapters_nothing_of_them_shows(folders: Path) -> None:
    async with serve(admin_api_keys_dir=folders / "admins", lora_dirs=(folders / "inside",)) as served:
        assert "adapters" not in await served.metrics()
        assert "adapter" not in (await served.client.get("/metrics/prometheus")).text
        error = error_of(await load(served, "news", folders / "inside" / "news"), 400)
        assert "--enable-lora" in error["message"]


async def test_fields_of_vllm_that_ask_for_nothing_are_taken(served: Served, folders: Path) -> None:
    assert (await load(served, "x", folders / "inside" / "news", is_3d_lora_weight=False)).status_code == 200
    body = {"lora_name": "x", "lora_int_id": 7}
    assert (await served.client.post("/v1/unload_lora_adapter", json=body, headers=ADMIN)).status_code == 200


async def test_only_administrators_may_load_and_only_where_there_are_some(served: Served, folders: Path) -> None:
    body = {"lora_name": "news", "lora_path": str(folders / "inside" / "news")}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        error_of(await served.client.post(path, json=body), 401)
    async with serve(enable_lora=True, lora_dirs=(folders / "inside",)) as open_to_all:
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            assert f"there is no {path}" in error_of(await open_to_all.client.post(path, json=body), 404)["message"]


# The adapters that are declared.


def write(path: Path, *entries: dict[str, Any]) -> None:
    path.write_text(json.dumps({"adapters": entries}))


async def settled(adapters: Adapters) -> dict[str, str]:
    """The states after what the file says now has been done."""
    adapters._file._seen = None
    adapters.poll()
    if adapters._following is not None:
        await adapters._following
    return {state.name: state.reason or state.state for state in adapters.states() or ()}


async def test_declared_adapters_are_followed(tmp_path: Path, folders: Path) -> None:
    file = tmp_path / "adapters.json"
    engine, now = ScriptedEngine(), [0.0]
    settings = make_settings(enable_lora=True, adapters_file=file)
    adapters = Adapters(settings, engine, clock=lambda: now[0])
    news, gone = {"name": "news", "path": str(folders / "inside" / "news")}, {"name": "gone", "path": "/nowhere"}
    write(file, gone, news)
    await adapters.start()  # the broken one keeps nobody waiting
    assert await settled(adapters) == {"gone": "nowhere is not a folder", "news": "loaded"}
    first = adapters.find("news")
    write(file, news | {"path": str(folders / "inside" / "sport")}, {"name": MODEL, "path": "/x"})
    assert await settled(adapters) == {"news": "loaded", MODEL: f"{MODEL} is a name of the model itself"}
    assert adapters.find("news") != first
    # What cannot be replaced stays, and the reason says why it is not the declared one.
    write(file, news | {"path": "/nowhere"})
    assert await settled(adapters) == {"news": "nowhere is not a folder"}
    assert adapters.find("news") is not None
    with pytest.raises(AdapterError, match="which the server follows"):
        await adapters.unload("news")
    file.write_text('{"adapters": [{}]}')
    assert list(await settled(adapters)) == ["news"]
    write(file)
    assert await settled(adapters) == {}
    await until(lambda: not engine.adapters)


async def test_a_broken_adapter_is_tried_again_after_a_while(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    now = [0.0]
    adapters = Adapters(make_settings(enable_lora=True, adapters_file=file), ScriptedEngine(), clock=lambda: now[0])
    write(file, {"name": "late", "path": str(tmp_path / "late")})
    await adapters.start()
    (tmp_path / "late").mkdir()
    assert await settled(adapters) == {"late": "late is not a folder"}
    now[0] += 61
    assert await settled(adapters) == {"late": "loaded"}


async def test_an_adapter_that_a_new_engine_refuses_is_missing_and_tried_again(tmp_path: Path, folders: Path) -> None:
    file, inside = tmp_path / "adapters.json", folders / "inside"
    engine, now = ScriptedEngine(), [0.0]
    settings = make_settings(enable_lora=True, adapters_file=file, lora_modules=(("sport", inside / "sport"),))
    adapters = Adapters(settings, engine, clock=lambda: now[0])
    write(file, {"name": "news", "path": str(inside / "news")})
    await adapters.start()
    assert await settled(adapters) == {"news": "loaded", "sport": "loaded"}
    engine.lost = dict.fromkeys(engine.adapters, "no such file")
    assert await settled(adapters) == {"news": "no such file", "sport": "no such file"}
    assert (adapters.served(), adapters.find("news")) == ({}, None)
    engine.adapter_error = InvalidRequestError("no such file")
    now[0] += 3
    assert set((await settled(adapters)).values()) == {"no such file"}
    engine.adapter_error = None
    now[0] += 3  # by now it is known to be broken, and is tried again in a minute
    assert set((await settled(adapters)).values()) == {"no such file"}
    now[0] += 60
    assert await settled(adapters) == {"news": "loaded", "sport": "loaded"}
    assert sorted(adapter.name for adapter in engine.adapters.values()) == ["news", "sport"]
    assert adapters._lost == {}


async def test_a_lost_adapter_is_missing_with_the_cause_until_it_is_loaded_or_unloaded(
    folders: Path, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"admin_api_keys_dir": folders / "admins", "lora_dirs": (folders / "inside",)}
    async with serve(enable_lora=True, model_aliases="new*", adapters_file=tmp_path / "none", **where) as served:
        adapters, engine = served.service.adapters, served.engine
        await adapters.start()
        for name in ("news", "sport"):
            assert (await load(served, name, folders / "inside" / name)).status_code == 200
        engine.lost = dict.fromkeys(engine.adapters, "no room is left")
        engine.adapter_error = InvalidRequestError("the files are gone")
        served.service.tick()
        text = "The adapter `news` is not loaded: no room is left"
        for response in (await served.chat(model="news"), await served.client.get("/v1/models/news")):
            error = error_of(response, 404)
            assert (error["message"], error["code"]) == (text, "model_not_found")
        assert (await served.chat(model="new-name")).status_code == 200  # of the alias
        cards = (await served.client.get("/v1/models")).json()["data"]
        assert {card["id"] for card in cards}.isdisjoint({"news", "sport"})
        states = {item["name"]: item for item in (await served.metrics())["adapters"]}
        assert (states["news"]["state"], states["news"]["loaded"]) == ("failed", False)
        assert states["news"]["reason"] == "no room is left"
        served.app.state.prometheus._rendered = None
        assert 'qwen_adapter_loaded{adapter="news"} 0' in (await served.client.get("/metrics/prometheus")).text
        assert (await unload(served, "news")).status_code == 200
        assert (await unload(served, "news")).status_code == 404
        engine.adapter_error = None
        assert (await load(served, "sport", folders / "inside" / "sport")).status_code == 200
        assert [(state.name, state.state) for state in adapters.states() or ()] == [("sport", "loaded")]


@pytest.mark.parametrize(
    ("error", "seconds"), [(None, 2), (InvalidRequestError("broken"), 2), (EngineError("no memory"), 30)]
)
async def test_a_restart_waits_for_the_adapters_that_may_be_loaded_again(
    folders: Path, error: Exception | None, seconds: float
) -> None:
    """It is over when each is loaded or known to be broken, and after half a minute at most."""
    engine, now = ScriptedEngine(), [0.0]
    settings = make_settings(enable_lora=True, lora_modules=(("news", folders / "inside" / "news"),))

    async def ticks(_: float) -> None:
        now[0] += 0.5
        adapters.poll()
        if adapters._following is not None:
            await adapters._following

    adapters = Adapters(settings, engine, clock=lambda: now[0], sleep=ticks)
    await adapters.start()
    await adapters.recover()
    assert now[0] == 0
    engine.lost, engine.adapter_error = dict.fromkeys(engine.adapters, "no room is left"), error
    await adapters.recover()
    assert now[0] == seconds
    assert (adapters.find("news") is not None) == (error is None)


async def test_the_start_waits_for_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    tries: list[Source] = []
    now = [0.0]

    def fetch(source: Source) -> Path:
        tries.append(source)
        now[0] += 100
        if len(tries) < 3:
            raise AdapterError("the hub cannot be reached", temporary=True)
        return tmp_path

    settings = make_settings(enable_lora=True, adapters_file=file)
    adapters = Adapters(settings, ScriptedEngine(), fetch=fetch, clock=lambda: now[0])
    write(file, {"name": "news", "repository": "me/news", "revision": "v1"})
    async with asyncio.timeout(5):
        now_moves = asyncio.create_task(adapters.start())
        while not now_moves.done():
            await asyncio.sleep(0.01)
            now[0] += 10
    assert tries == [Source(repository="me/news", revision="v1")] * 3
    assert adapters.served() == {"news": "me/news"}
    assert adapters.states() == (AdapterState("news", "me/news@v1", "loaded", loaded=True),)


async def test_an_engine_that_dies_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    write(file, {"name": "news", "path": str(tmp_path)})
    engine = ScriptedEngine(adapter_error=EngineError("gone"))
    engine.die("CUDA error")
    with pytest.raises(EngineError, match="CUDA error"):
        await Adapters(make_settings(enable_lora=True, adapters_file=file), engine).start()


async def test_a_broken_adapter_of_the_command_line_ends_the_start(tmp_path: Path) -> None:
    settings = make_settings(lora_modules=f"good={tmp_path},bad={tmp_path / 'bad'}", adapters_file=tmp_path / "none")
    with pytest.raises(EngineError, match="--lora-modules: bad: bad is not a folder"):
        await Adapters(settings, ScriptedEngine()).start()


async def test_the_adapters_of_the_command_line_are_served(tmp_path: Path) -> None:
    settings = make_settings(lora_modules=f"good={tmp_path}", adapters_file=tmp_path / "none")
    adapters = Adapters(settings, ScriptedEngine())
    await adapters.start()
    assert adapters.served() == {"good": str(tmp_path)}
    await adapters.unload("good")
    assert adapters.served() == {}


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "a list"),
        ({"adapters": {}}, "a list"),
        ({"adapters": ["x"]}, r"adapters\[0\]"),
        ({"adapters": [{"name": "a", "path": 1}]}, r"adapters\[0\]"),
        ({"adapters": [{"name": "a"}]}, r"adapters\[0\]: expected either"),
        ({"adapters": [{"name": "a", "path": "/a", "repository": "a/a"}]}, r"adapters\[0\]: expected either"),
        ({"adapters": [{"name": "a", "path": "a"}]}, r"adapters\[0\].path"),
        ({"adapters": [{"name": "a,", "path": "/a"}]}, r"adapters\[0\].name"),
        ({"adapters": [{"name": "a", "path": "/a"}] * 2}, r"adapters\[1\].name"),
        ({"adapters": [{"name": "a", "repository": "a/a", "hub": "x"}]}, r"adapters\[0\].hub"),
        ({"adapters": [{"name": "a", "path": "/a", "rank": "4"}]}, "unknown field"),
    ],
)
async def test_a_wrong_file_is_refused_with_the_place(document: Any, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        parse_declared(document)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lora-modules=news"], r"'news' is neither NAME=PATH, .* nor JSON"),
        (["--lora-modules=a=/a,a=/b"], "twice"),
        (["--lora-modules", "a=/a", '{"name": "a", "path": "/b"}'], "twice"),
        (["--lora-modules", '{"name": "a"}'], "is not an object such as"),
        (["--lora-modules", '{"name": "a", "path": "/a", "rank": 8}'], "is not an object such as"),
        (["--lora-modules", '{"name": 1, "path": "/a"'], "is not JSON such as"),
        (["--lora-modules", '[{"name": "a", "path": "/a"}, "b=/b"]'], "entry 2 of .* is not an object such as"),
        (["--lora-modules", '[{"name": "a", "path": "/a"}]', "a=/b"], "twice"),
        (["--lora-modules", "a=/a", "--no-enable-lora"], "--no-enable-lora .*turns them off"),
        (["--lora-modules", '{"name": "a", "path": "/a", "base_model_name": "b"}'], "base_model_name: the parent"),
        (["--lora-modules=a=/a,b=/b", "--max-cpu-loras=1"], "--max-cpu-loras"),
        (["--lora-modules=qwen-news-classifier=/a"], "a name of the model itself"),
        (["--served-model-name", "a", "b", "--lora-modules=b=/b"], "a name of the model itself"),
        (["--max-lora-rank=12"], "--max-lora-rank"),
        (["--lora-dirs=relative"], "not an absolute path"),
        (["--", "--enable-lora"], "write --enable-lora before"),
        (["--", "--lora-modules", "a=/a"], "write --lora-modules before"),
    ],
)
async def test_wrong_settings_are_refused_by_their_flags(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_settings(flags)


async def test_the_settings_of_adapters_are_read() -> None:
    settings = load_settings(["--lora-modules=a=/a b=/b", "--max-lora-rank=64", "--lora-dirs=/x, /y"])
    assert settings.lora
    assert settings.lora_modules == (("a", Path("/a")), ("b", Path("/b")))
    assert settings.max_lora_rank == 64
    assert settings.lora_dirs == (Path("/x"), Path("/y"))
    assert not load_settings([]).lora


async def test_adapters_are_named_as_in_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = ['{"name": "a", "path": "/a"}', '{"name": "b", "path": "/b, too"}']
    found = [("a", Path("/a")), ("b", Path("/b, too"))]
    assert list(load_settings(["--lora-modules", *objects]).lora_modules) == found
    mixed = load_settings(["--lora-modules", "c=/c", objects[1], "--enable-lora"]).lora_modules
    assert mixed == (("c", Path("/c")), found[1])
    several = f"[{objects[0]}, {objects[1]}]"
    assert list(load_settings(["--lora-modules", several]).lora_modules) == found
    assert load_settings(["--lora-modules", "[]", "--no-enable-lora"]).lora_modules == ()
    monkeypatch.setenv("QWEN_LORA_MODULES", objects[0])
    assert load_settings([]).lora_modules == (found[0],)
    monkeypatch.setenv("QWEN_LORA_MODULES", several)
    assert list(load_settings([]).lora_modules) == found
    monkeypatch.setenv("QWEN_ENABLE_LORA", "false")
    with pytest.raises(ConfigurationError, match="QWEN_ENABLE_LORA=false"):
        load_settings([])
