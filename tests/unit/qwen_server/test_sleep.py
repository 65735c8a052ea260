"""An engine that sleeps: nothing is hung, nothing is lost, and everybody is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from qwen_server.control import sleeping
from qwen_server.engine.base import SWITCHING_SECONDS, Vitals, hung_seconds, stalled_seconds
from qwen_server.engine.vllm.heartbeat import Heartbeat
from tests.unit.qwen_server.serving import Served, serve, until
from tests.unit.qwen_server.test_client_errors import error_of
from tests.unit.qwen_server.test_engine_restarts import revived

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = {"authorization": "Bearer root"}
SLOW = '@{"tokens": 100, "delay": 0.05}'


@pytest_asyncio.fixture(loop_scope="module")
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    (tmp_path / "ops").write_text("root\n")
    async with serve(admin_api_keys_dir=tmp_path) as served:
        yield served


async def order(served: Served, path: str, **query: Any) -> httpx.Response:
    return await served.client.post(path, params=query, headers=ADMIN)


async def is_sleeping(served: Served) -> bool:
    answer: dict[str, bool] = (await served.client.get("/is_sleeping", headers=ADMIN)).json()
    return answer["is_sleeping"]


async def test_a_server_that_sleeps_says_so_and_serves_again_after_it(served: Served) -> None:
    assert (await order(served, "/sleep")).json() == {"status": "sleeping", "level": 1}
    assert await is_sleeping(served)
    health = await served.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "sleeping")
    assert (await served.client.get("/health/ready")).status_code == 503
    assert (await served.client.get("/ping")).status_code == 503
    assert (await served.metrics())["status"] == "sleeping"
    refused = await served.chat()
    assert refused.status_code == 503
    assert "休眠" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) > 0
    assert (await order(served, "/wake_up")).json() == {"status": "awake", "tags": None}
    assert not await is_sleeping(served)
    assert (await served.client.get("/health")).json()["status"] == "ok"
    assert (await served.chat()).status_code == 200
    assert served.engine.maintenance.orders == [("sleep", 1), ("wake_up", None)]


async def test_nobody_has_a_reason_to_restart_a_server_that_sleeps(served: Served) -> None:
    """The kubelet asks /health/live, and the operator acts on the alerts."""
    await order(served, "/sleep", level=2)
    served.service.tick()
    assert (await served.client.get("/health/live")).status_code == 200
    assert (await served.metrics())["alerts"] == []
    proof = await served.client.get("/health/generate")
    assert (proof.status_code, proof.json()["error"]) == (503, "the engine is asleep")
    assert 'qwen_refusals_total{reason="sleeping"} 0' in (await served.client.get("/metrics/prometheus")).text


async def test_accepted_requests_end_with_a_503_before_the_engine_sleeps(served: Served) -> None:
    running = [asyncio.create_task(served.chat(SLOW)) for _ in range(5)]  # 3 run, 2 wait
    await until(lambda: served.lifecycle.in_flight == 5)
    assert (await order(served, "/sleep")).status_code == 200
    for answer in await asyncio.gather(*running):
        assert (answer.status_code, "休眠" in answer.json()["error"]) == (503, True)
    assert served.engine.unfinished == 0
    outcomes = served.service.figures.counters.outcomes
    assert (outcomes["refused"], outcomes["failed"]) == (5, 0)


async def test_with_the_mode_wait_accepted_requests_finish_first(served: Served) -> None:
    running = asyncio.create_task(served.chat('@{"tokens": 5, "delay": 0.1}'))
    await until(lambda: served.engine.unfinished == 1)
    asked = asyncio.create_task(order(served, "/sleep", mode="wait"))
    await until(lambda: served.service.sleep.active)
    assert (await served.chat()).status_code == 503
    assert not await is_sleeping(served)
    assert not running.done()
    assert (await running).status_code == 200
    assert (await asked).status_code == 200
    assert await is_sleeping(served)


async def test_an_engine_that_comes_before_the_sleep_sleeps_in_place_of_the_dead_one(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("root\n")
    async with revived(admin_api_keys_dir=tmp_path) as served:
        running = asyncio.create_task(served.chat(SLOW, max_tokens=10))
        await until(lambda: served.engine.generated > 1)
        asked = asyncio.create_task(order(served, "/sleep", mode="wait"))
        await until(lambda: served.service.sleep.active)
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        assert (await served.chat()).status_code == 503
        assert (await running).status_code == 200
        assert (await asked).json() == {"status": "sleeping", "level": 1}
        assert await is_sleeping(served)
        assert (await served.chat()).status_code == 503
        assert (await order(served, "/wake_up")).json()["status"] == "awake"
        assert (await served.chat()).status_code == 200


async def test_an_engine_that_is_away_takes_no_orders(tmp_path: Path) -> None:
    """An order would end the requests that wait, and the next engine would count as asleep."""
    (tmp_path / "ops").write_text("root\n")
    async with revived(admin_api_keys_dir=tmp_path, enable_tokenizer_info_endpoint=True) as served:
        served.engine.may_restart.clear()
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        assert (await served.client.get("/tokenizer_info")).status_code == 503
        waiting = asyncio.create_task(served.chat())
        await until(lambda: served.lifecycle.in_flight == 1)
        for path in ("/sleep", "/wake_up", "/reset_prefix_cache"):
            refused = await order(served, path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        served.engine.may_restart.set()
        assert (await waiting).status_code == 200
        assert not await is_sleeping(served)
        assert served.engine.maintenance.orders == []


async def test_an_engine_that_dies_while_it_falls_asleep_is_followed_by_one_that_is_awake(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("root\n")
    async with revived(admin_api_keys_dir=tmp_path) as served:
        served.engine.maintenance.may_switch.clear()
        asked = asyncio.create_task(order(served, "/sleep"))
        await until(lambda: served.engine.maintenance.orders)
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        served.engine.maintenance.failure = "the engine died"
        served.engine.maintenance.asleep = {"weights"}  # what nobody can say of a dead engine
        served.engine.maintenance.may_switch.set()
        assert (await asked).status_code == 500
        assert not await is_sleeping(served)
        assert (await served.chat()).status_code == 200


async def test_parts_wake_up_one_after_the_other(served: Served) -> None:
    await order(served, "/sleep")
    response = await served.client.post("/wake_up?tags=weights&tags=weights", headers=ADMIN)
    assert response.json() == {"status": "sleeping", "tags": ["weights"]}
    assert await is_sleeping(served)
    assert (await served.chat()).status_code == 503
    assert (await order(served, "/wake_up", tags="kv_cache")).json()["status"] == "awake"
    assert (await served.chat()).status_code == 200


async def test_a_lighter_sleep_becomes_no_deeper_one(served: Served) -> None:
    """vLLM ignores the order, and the weights would stay in the memory of the host."""
    for level in (0, 1, 1):
        assert (await order(served, "/sleep", level=level)).status_code == 200
    assert error_of(await order(served, "/sleep", level=2), 400)["param"] == "level"
    await order(served, "/wake_up", tags="weights")
    assert (await order(served, "/sleep", level=2)).status_code == 200
    await order(served, "/wake_up")
    assert (await order(served, "/sleep", level=2)).status_code == 200


async def test_a_failure_to_sleep_is_a_500_and_the_server_serves_on(served: Served) -> None:
    served.engine.maintenance.failure = "no memory left on the host"
    failed = await order(served, "/sleep")
    assert (failed.status_code, failed.json()) == (500, {"error": "no memory left on the host"})
    assert not await is_sleeping(served)
    assert (await served.chat()).status_code == 200


async def test_a_failure_to_wake_up_leaves_it_asleep(served: Served) -> None:
    await order(served, "/sleep")
    served.engine.maintenance.failure = "out of memory"
    assert (await order(served, "/wake_up")).status_code == 500
    assert await is_sleeping(served)
    served.engine.maintenance.failure = None
    assert (await order(served, "/wake_up")).json()["status"] == "awake"


async def test_an_engine_that_does_not_answer_ends_an_order_in_time(served: Served) -> None:
    await order(served, "/sleep")
    served.engine.maintenance.may_switch.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sleeping.answer_of, "__defaults__", (0.05,))
        failed = await order(served, "/wake_up")
    assert (failed.status_code, "not answered" in failed.json()["error"]) == (500, True)
    assert await is_sleeping(served)
    served.engine.maintenance.may_switch.set()


async def test_without_sleep_mode_only_the_scheduler_can_stop(served: Served) -> None:
    served.engine.info = type(served.engine.info)("m", "m", 2048, 256, 65536, "cpu")
    for level in (1, 2):
        error = error_of(await order(served, "/sleep", level=level), 400)
        assert (error["param"], error["code"]) == ("level", "sleep_mode_off")
        assert "--enable-sleep-mode" in error["message"]
    assert served.engine.maintenance.orders == []
    assert (await order(served, "/sleep", level=0)).json() == {"status": "sleeping", "level": 0}
    assert (await order(served, "/wake_up", tags="scheduling")).json()["status"] == "awake"


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/sleep", {"level": "3"}, "level"),
        ("/sleep", {"level": "one"}, "level"),
        ("/sleep", {"mode": "keep"}, "mode"),
        ("/wake_up", {"tags": "memory"}, "tags"),
        ("/reset_prefix_cache", {"reset_running_requests": "maybe"}, "reset_running_requests"),
        ("/reset_prefix_cache", {"reset_external": "2"}, "reset_external"),
    ],
)
async def test_a_wrong_parameter_is_a_400_that_names_it(
    served: Served, path: str, query: dict[str, str], param: str
) -> None:
    assert error_of(await order(served, path, **query), 400)["param"] == param
    assert served.engine.maintenance.orders == []


async def test_the_prefix_cache_is_emptied_as_asked(served: Served) -> None:
    assert (await order(served, "/reset_prefix_cache")).json() == {"success": False}
    assert (await order(served, "/reset_prefix_cache", reset_running_requests="true")).json() == {"success": True}
    assert (await order(served, "/reset_prefix_cache", reset_external="1")).json() == {"success": False}
    assert served.engine.maintenance.orders == [
        ("reset_prefix_cache", False, False),
        ("reset_prefix_cache", True, False),
        ("reset_prefix_cache", False, True),
    ]


async def test_a_server_that_starts_or_drains_takes_no_orders(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("root\n")
    async with serve(ready=False, admin_api_keys_dir=tmp_path) as served:
        for path in ("/reset_prefix_cache", "/sleep", "/wake_up"):
            assert (await order(served, path)).status_code == 503
        assert not await is_sleeping(served)
        await served.engine.start()
        served.lifecycle.mark_ready()
        served.lifecycle.begin_drain("SIGTERM")
        assert (await order(served, "/sleep")).status_code == 503


async def test_an_engine_that_switches_is_not_hung_for_five_minutes() -> None:
    vitals = Vitals("ready", ping_sent_at=0.0, busy_since=0.0, switching_since=10.0)
    assert hung_seconds(vitals, 10 + SWITCHING_SECONDS) == 0
    assert hung_seconds(vitals, 30 + SWITCHING_SECONDS) == 20
    assert stalled_seconds(vitals, 30 + SWITCHING_SECONDS) == 0


async def test_after_a_switch_a_ping_has_all_its_time_again() -> None:
    heartbeat = Heartbeat(ping_sent_at=1.0, busy_since=2.0, switching_since=3.0)
    heartbeat.on_switched(60.0)
    assert (heartbeat.ping_sent_at, heartbeat.busy_since, heartbeat.switching_since) == (60.0, 60.0, None)
