"""A dead engine is restarted in the server's process: what clients, probes and metrics see."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen_server.api import streaming
from qwen_server.control import service as service_module
from qwen_server.control.reviver import Reviver
from tests.scripted_answers import PROMPT_TOKENS
from tests.unit.qwen_server.serving import Served, events_of, serve, until

LONG = '@{"tokens": 60, "delay": 0.01}'
FIXED = '@{"tokens": 60, "delay": 0.01, "goes_on": false}'


@pytest.fixture(autouse=True)
def _fast_ticker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "TICK_SECONDS", 0.02)


@contextlib.asynccontextmanager
async def revived(**values: Any) -> AsyncIterator[Served]:
    """A server whose engine is restarted as by the runner. A restart takes 0.2 s."""
    async with serve(**({"engine_restarts": 3, "max_tokens_limit": 1000} | values)) as served:
        engine, lifecycle = served.engine, served.lifecycle
        engine.restart_seconds = 0.2
        service = served.service
        recover = service.adapters.recover
        reviver = Reviver(service.settings, engine, lifecycle, is_lost=service.engine_is_lost, recover=recover)

        async def watch() -> None:
            while True:
                await asyncio.sleep(0.005)
                if (cause := reviver.cause_of_death()) is not None:
                    lifecycle.mark_dead(cause)
                    return
                served.app.state.unmet = reviver.unmet_request()

        watching = asyncio.create_task(watch())
        try:
            yield served
        finally:
            watching.cancel()


def text_of(response: httpx.Response) -> str:
    """The text of a stream that ended well."""
    *chunks, done = events_of(response.text)
    assert done == "[DONE]", chunks[-1]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def test_a_server_is_not_ready_before_its_adapters_have_been_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "news").mkdir()
    monkeypatch.setattr("qwen_server.control.adapters._LOOK_SECONDS", 0.01)
    async with revived(enable_lora=True, lora_modules=(("news", tmp_path / "news"),)) as served:
        adapters = served.service.adapters
        await adapters.start()
        now = [0.0]
        monkeypatch.setattr(adapters, "_clock", lambda: now[0])
        served.engine.lost = dict.fromkeys(served.engine.adapters, "no room is left")
        served.engine.die("CUDA out of memory")
        await until(lambda: served.engine.restarts == 1 and adapters.why_missing("news") == "no room is left")
        assert served.lifecycle.state == "restarting"
        assert (await served.client.get("/health/ready")).status_code == 503
        now[0] += 2
        await until(lambda: served.lifecycle.state == "ready")
        assert (await served.client.get("/health/ready")).status_code == 200
        assert adapters.find("news") is not None


async def test_a_crash_is_a_pause_for_all_that_was_accepted() -> None:
    async with revived() as served:
        streams = [asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500)) for _ in range(2)]
        whole = asyncio.create_task(served.chat(LONG, max_tokens=500))
        waiting = asyncio.create_task(served.chat())
        await until(lambda: served.engine.generated > 20 and served.service.admission.waiting == 1)
        served.engine.may_restart.clear()
        served.engine.die("CUDA out of memory")
        await until(lambda: served.lifecycle.state == "restarting")
        health = await served.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "restarting")
        assert health.headers["connection"] == "close"
        assert (await served.client.get("/health/ready")).status_code == 503
        assert (await served.client.get("/health/live")).status_code == 200
        assert (await served.client.get("/health/generate")).status_code == 503
        metrics = await served.metrics()
        assert (metrics["status"], metrics["alerts"]) == ("restarting", [])
        assert metrics["engine"]["restarting_seconds"] is not None
        late = asyncio.create_task(served.chat())
        await until(lambda: served.lifecycle.in_flight == 5)
        served.engine.may_restart.set()
        for stream in streams:
            assert text_of(await stream) == "字" * 60
        assert (await whole).json()["choices"][0]["message"]["content"] == "字" * 60
        assert (await whole).json()["usage"]["completion_tokens"] == 60
        assert ((await waiting).status_code, (await late).status_code) == (200, 200)
        assert (await late).headers["connection"] == "close"  # although the engine is back
        assert "connection" not in (await served.chat()).headers
        metrics = await served.metrics()
        assert metrics["errors"] == {"total": 0, "by_type": {}}
        assert metrics["requests"]["successful"] == 6
        assert (metrics["status"], metrics["alerts"]) == ("healthy", [])
        assert metrics["engine"]["restarts"] == {"total": 1, "by_cause": {"died": 1}, "left": 2}
        # The percentiles, which alerts read, are those of the request that did not wait for it.
        assert metrics["slo"]["sample_size"] == 1
        page = (await served.client.get("/metrics/prometheus")).text
        assert 'qwen_engine_restarts_total{cause="died"} 1\n' in page
        assert 'qwen_engine_restarts_total{cause="hung"} 0\n' in page
        assert "qwen_engine_restarts_left 2\n" in page


async def test_the_time_of_a_restart_is_nobodys_use_of_slots() -> None:
    """Otherwise the queue of `auto` would shrink, and refused clients would wait for longer."""
    async with revived() as served:
        served.engine.restart_seconds = 1.0
        begun = time.monotonic()
        answer = asyncio.create_task(served.chat('@{"tokens": 20, "delay": 0.01}', max_tokens=100))
        await until(lambda: served.engine.generated > 2)
        served.engine.die()
        await until(lambda: served.service.lifecycle.restarts.total_seconds > 0.8)
        assert served.service.admission.completions_per_second() >= 3 / 2  # before any has ended, 2 s are assumed
        assert (await answer).status_code == 200
        used = time.monotonic() - begun - 0.9 * served.service.lifecycle.restarts.total_seconds
        assert served.service.admission.completions_per_second() > 3 / used


async def test_what_cannot_go_on_gets_a_typed_error_that_raises_no_alert() -> None:
    async with revived(max_concurrent_requests=30) as served:
        streams = [asyncio.create_task(served.chat(FIXED, stream=True, max_tokens=500)) for _ in range(25)]
        await until(lambda: served.engine.generated > 60)
        served.engine.die()
        for stream in streams:
            *_, last = events_of((await stream).text)
            assert last["error"]["code"] == "engine_restarted"
            assert last["error"]["type"] == "service_unavailable_error"
            assert last["error"]["message"].startswith("the engine was restarted, and this answer cannot go on: ")
        metrics = await served.metrics()
        assert metrics["errors"] == {"total": 25, "by_type": {"engine_restarted": 25}}
        await asyncio.sleep(0.1)  # several ticks
        assert served.service.alert_state.active == ()


async def test_the_reference_path_starts_over_until_its_first_byte() -> None:
    async with revived() as served:
        begun = asyncio.create_task(served.chat(LONG, stream=True, logprobs=True, max_tokens=500))
        whole = asyncio.create_task(served.chat(LONG, logprobs=True, max_tokens=500))
        await until(lambda: served.engine.generated > 20)
        late = asyncio.create_task(served.chat('@{"first": 0.5}', stream=True, logprobs=True))
        await until(lambda: served.engine.unfinished == 3)
        served.engine.die()
        assert events_of((await begun).text)[-1]["error"]["code"] == "engine_restarted"
        assert (await whole).json()["choices"][0]["message"]["content"] == "字" * 60
        assert events_of((await late).text)[-1] == "[DONE]"
        metrics = await served.metrics()
        assert metrics["errors"]["by_type"] == {"engine_restarted": 1}
        # What was generated twice counts once.
        answer = len("这条新闻属于【财经】类别。")
        assert metrics["tokens"]["total_output"] == 60 + answer


async def test_a_request_that_pools_texts_is_answered_by_the_next_engine() -> None:
    """All its texts are read again, also those that the dead engine had done. They count once."""
    async with revived(task="embed") as served:
        texts = ["x", '@{"first": 0.2}', "y"]
        asked = asyncio.create_task(served.client.post("/v1/embeddings", json={"input": texts}))
        await until(lambda: served.service.admission.running == 1)
        served.engine.may_restart.clear()
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        late = asyncio.create_task(served.client.post("/rerank", json={"query": "x", "documents": ["x", "y"]}))
        await until(lambda: served.lifecycle.in_flight == 2)
        served.engine.may_restart.set()
        answer = await asked
        assert (answer.status_code, [item["index"] for item in answer.json()["data"]]) == (200, [0, 1, 2])
        assert (await late).status_code == 200
        metrics = await served.metrics()
        assert metrics["tokens"]["total_input"] == PROMPT_TOKENS * 5
        assert metrics["errors"] == {"total": 0, "by_type": {}}
        assert metrics["engine"]["restarts"]["by_cause"] == {"died": 1}


async def test_a_text_that_kills_each_engine_is_not_tried_a_fourth_time() -> None:
    async with revived(task="embed", engine_restarts=4) as served:
        served.engine.restart_seconds = 0.05
        response = await served.client.post("/v1/embeddings", json={"input": ["x", '@{"action": "die"}']})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_restarted")
        assert (await served.client.post("/v1/embeddings", json={"input": "x"})).status_code == 200
        assert (await served.metrics())["engine"]["restarts"]["left"] == 1


async def test_a_client_that_leaves_during_the_pause_is_forgotten() -> None:
    async with revived() as served:
        leaving = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        staying = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        await until(lambda: served.engine.generated > 10)
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        leaving.cancel()
        await until(lambda: served.engine.unfinished == 1)
        assert text_of(await staying) == "字" * 60
        await served.until_idle()
        assert (await served.metrics())["requests"]["aborted"] == 1


async def test_two_deaths_in_a_row_and_one_during_the_replay_are_one_longer_pause() -> None:
    async with revived() as served:
        served.engine.restart_failures = 1
        stream = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        await until(lambda: served.engine.generated > 10)
        served.engine.die()
        await until(lambda: served.engine.restarts == 2 and served.engine.generated > 15)
        served.engine.die()
        assert text_of(await stream) == "字" * 60
        assert (await served.metrics())["engine"]["restarts"]["by_cause"] == {"died": 2, "failed": 1}


async def test_a_request_that_kills_each_engine_is_not_tried_a_fourth_time() -> None:
    async with revived(engine_restarts=4) as served:
        served.engine.restart_seconds = 0.05
        response = await served.chat('@{"action": "die", "poison": true}')
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_restarted")
        assert "the engine has died 3 times while it had the request" in response.json()["error"]["message"]
        assert (await served.chat()).status_code == 200
        assert (await served.metrics())["engine"]["restarts"]["left"] == 1


async def test_beyond_the_budget_every_request_gets_the_cause() -> None:
    async with revived(engine_restarts=1) as served:
        stream = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        unstarted = asyncio.create_task(served.chat('@{"first": 5}'))
        await until(lambda: served.engine.generated > 5)
        served.engine.die("first")
        await until(lambda: served.lifecycle.state == "restarting")
        await until(lambda: served.lifecycle.state == "ready")
        served.engine.die("CUDA error: second")
        assert events_of((await stream).text)[-1]["error"]["message"] == "CUDA error: second"
        assert (await unstarted).json() == {"error": "CUDA error: second"}
        assert served.lifecycle.state == "dead"
        assert served.lifecycle.cause == "CUDA error: second (1 restarts within 600 s are the limit)"
        await until(lambda: served.service.alert_state.fires("EngineDead"))


@pytest.mark.parametrize("fails", [True, False])
async def test_restarts_that_take_long_use_up_the_budget_too(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Three of them take longer than the window, in which the engine works for a moment only."""
    monkeypatch.setattr("qwen_server.control.restarts.BUDGET_SECONDS", 1.0)
    async with revived() as served:
        restarts, causes = served.lifecycle.restarts, {"died": 1, "failed": 2} if fails else {"died": 3}
        served.engine.restart_seconds, served.engine.restart_failures = 0.55, 100 if fails else 0
        for deaths in range(1 if fails else 4):
            await until(lambda: served.lifecycle.state == "ready")
            assert restarts.counts.total() == deaths
            served.engine.die("CUDA error")
            await until(lambda: served.lifecycle.state != "ready")
        await until(lambda: served.lifecycle.state == "dead")
        assert restarts.counts == causes
        assert restarts.total_seconds > 1.5


async def test_the_queue_waits_as_much_longer_as_the_engine_is_away() -> None:
    async with revived(max_concurrent_requests=1, queue_timeout=0.4) as served:
        served.engine.restart_seconds = 0.6
        running = asyncio.create_task(served.chat('@{"tokens": 5, "delay": 0.01, "first": 0.1}'))
        await until(lambda: served.engine.unfinished == 1)
        waiting = asyncio.create_task(served.chat())
        await until(lambda: served.service.admission.waiting == 1)
        served.engine.die()
        assert (await running).status_code == 200
        assert (await waiting).status_code == 200


async def test_a_request_with_a_grammar_is_told_to_come_back() -> None:
    """Its check takes no slot, so nothing would bound how many wait."""
    async with revived() as served:
        served.engine.may_restart.clear()
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        response = await served.chat(response_format={"type": "json_object"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert (await served.metrics())["requests"]["refused"] == 1
        served.engine.may_restart.set()
        await until(lambda: served.lifecycle.state == "ready")
        assert (await served.chat(response_format={"type": "json_object"})).status_code == 200


async def test_comments_keep_the_connection_open_during_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    async with revived() as served:
        stream = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        await until(lambda: served.engine.generated > 10)
        served.engine.die()
        assert text_of(await stream) == "字" * 60
        assert (await stream).text.count("\n: ") + (await stream).text.startswith(": ") >= 2


async def test_the_operator_asks_for_a_restart_by_an_annotation(tmp_path: Path) -> None:
    annotations = tmp_path / "annotations"
    annotations.write_text('qwen-vllm.io/restart-engine="old"\n')
    async with revived(podinfo_dir=tmp_path, engine_restarts=1) as served:
        stream = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        await until(lambda: served.engine.generated > 10)
        served.engine.hang()
        annotations.write_text('qwen-vllm.io/restart-engine="7f3a"\n')
        assert text_of(await stream) == "字" * 60
        assert served.lifecycle.restarts.counts == {"requested": 1}
        annotations.write_text('qwen-vllm.io/restart-engine="7f3b"\n')
        # The budget is used up: the runner restarts the process.
        await until(lambda: served.app.state.unmet == "7f3b")
        assert served.lifecycle.restarts.counts == {"requested": 1}


async def test_a_restart_under_way_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    annotations = tmp_path / "annotations"
    annotations.write_text('app="qwen"\n')
    async with revived(podinfo_dir=tmp_path) as served:
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        annotations.write_text('qwen-vllm.io/restart-engine="7f3a"\n')
        await until(lambda: served.lifecycle.state == "ready")
        await asyncio.sleep(0.05)  # several polls
        assert (served.lifecycle.state, served.lifecycle.restarts.counts) == ("ready", {"died": 1})


async def test_an_engine_that_hangs_for_very_long_is_restarted_before_the_process_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "_LIVE_MIN_SECONDS", 0.3)
    monkeypatch.setattr(service_module, "_LIVE_FACTOR", 0.0)
    async with revived() as served:
        stream = asyncio.create_task(served.chat(LONG, stream=True, max_tokens=500))
        await until(lambda: served.engine.generated > 10)
        served.engine.hang()
        assert text_of(await stream) == "字" * 60
        assert served.lifecycle.restarts.counts == {"hung": 1}


async def test_a_restart_that_never_ends_is_a_case_for_the_liveness_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_server.control.restarts._MIN_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("qwen_server.control.restarts._PATIENCE_FACTOR", 0.0)
    async with revived() as served:
        served.engine.restart_seconds = 30.0
        served.engine.die()
        await until(lambda: served.lifecycle.state == "restarting")
        await asyncio.sleep(0.15)
        assert (await served.client.get("/health/live")).status_code == 503
