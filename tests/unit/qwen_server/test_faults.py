"""Start, drain, hang, failure and death: what clients and probes get."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from qwen_server.api.routes import health
from qwen_server.control import service as service_module
from qwen_server.control.alerts import HUNG_SECONDS
from qwen_server.engine.base import InvalidRequestError, Vitals
from tests.unit.qwen_server.serving import Served, events_of, serve, until
from tests.unit.qwen_server.test_leaving_clients import ask, deaf

RUNNING = '@{"tokens": 400, "delay": 0.02}'


@pytest.fixture(autouse=True)
def _fast_ticker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "TICK_SECONDS", 0.02)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server whose engine counts as hung after 0.2 s and as stalled after 0.3 s."""
    path = tmp_path / "alerts.json"
    thresholds = {"EngineUnresponsive": 0.2, "GenerationStalled": 0.3}
    alerts = [{"name": name, "threshold": threshold} for name, threshold in thresholds.items()]
    path.write_text(json.dumps({"alerts": alerts}))
    async with serve(alerts_file=path) as served:
        yield served


async def status_of(served: Served, path: str) -> int:
    return (await served.client.get(path)).status_code


async def test_while_starting_requests_are_refused_and_the_process_lives() -> None:
    async with serve(ready=False) as served:
        response = await served.chat()
        assert response.status_code == 503
        assert set(response.json()) == {"error", "queue_size", "max_queue_size"}
        assert "retry-after" in response.headers
        health = await served.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        assert set(health.json()) == {"status", "gpu", "limits"}
        assert (await served.metrics())["status"] == "starting"
        assert await status_of(served, "/health/live") == 200
        assert await status_of(served, "/health/ready") == 503
        assert await status_of(served, "/health/generate") == 503
        assert await status_of(served, "/v1/models") == 503
        assert await status_of(served, "/metrics/prometheus") == 200


async def test_while_draining_accepted_requests_finish_and_new_ones_are_refused(served: Served) -> None:
    accepted = asyncio.create_task(served.chat('@{"tokens": 20, "delay": 0.02}', stream=True))
    await until(lambda: served.engine.unfinished == 1)
    served.lifecycle.begin_drain("SIGTERM")
    response = await served.chat()
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert response.headers["connection"] == "close"
    assert await status_of(served, "/health/ready") == 503
    assert await status_of(served, "/health/live") == 200
    health = await served.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "draining")
    assert (await served.metrics())["status"] == "draining"
    assert events_of((await accepted).text)[-1] == "[DONE]"
    await asyncio.wait_for(served.lifecycle.wait_idle(), 1)


async def test_models_are_unknown_while_a_server_stops_that_never_loaded() -> None:
    async with serve(ready=False) as served:
        del served.engine.info  # a real engine has none before it is loaded
        served.lifecycle.begin_drain("SIGTERM")
        response = await served.client.get("/v1/models")
        assert response.status_code == 503
        assert "retry-after" in response.headers


@pytest.mark.parametrize(("ends_as", "word"), [("draining", "draining"), ("dead", "unhealthy")])
async def test_health_and_metrics_answer_while_a_server_stops_that_never_loaded(ends_as: str, word: str) -> None:
    async with serve(ready=False) as served:
        del served.engine.info  # as above
        if ends_as == "dead":
            served.lifecycle.mark_dead("the model cannot be served")
        else:
            served.lifecycle.begin_drain("SIGTERM")
        health = await served.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, word)
        assert (await served.metrics())["status"] == word
        page = await served.client.get("/metrics/prometheus")
        assert page.status_code == 200
        assert "qwen_ready 0\n" in page.text


async def test_a_hung_engine_is_reported_and_refused_until_it_recovers(served: Served) -> None:
    running = asyncio.create_task(served.chat('@{"tokens": 10, "delay": 0.05}'))
    await until(lambda: served.engine.unfinished == 1)
    served.engine.hang()
    await until(lambda: served.service.alert_state.zero_work)
    metrics = await served.metrics()
    assert metrics["status"] == "unhealthy"
    assert metrics["alerts_count"] == 1
    (alert,) = metrics["alerts"]
    assert set(alert) == {"name", "severity", "message", "value", "threshold", "unit", "since"}
    assert (alert["name"], alert["severity"], alert["threshold"]) == ("EngineUnresponsive", "critical", 0.2)
    begin = time.monotonic()
    response = await served.chat()
    assert time.monotonic() - begin < 0.5
    assert (response.status_code, response.headers["connection"]) == (503, "close")
    assert "retry-after" in response.headers
    assert (await served.client.get("/health")).json()["status"] == "unhealthy"
    served.engine.resume()
    await until(lambda: not served.service.alert_state.zero_work)
    assert (await running).status_code == 200
    assert (await served.chat()).status_code == 200
    assert (await served.metrics())["status"] == "healthy"


async def test_readiness_gives_way_only_far_beyond_the_alert(served: Served) -> None:
    served.engine.hang()
    await until(lambda: served.service.alert_state.zero_work)
    served.engine._hung_at = time.monotonic() - 0.5
    assert served.service.ready()
    served.engine._hung_at = time.monotonic() - 0.9
    assert await status_of(served, "/health/ready") == 503
    assert await status_of(served, "/health/live") == 200


async def test_liveness_gives_way_after_five_minutes_of_hanging(served: Served) -> None:
    served.engine._hung_at = time.monotonic() - 299
    assert served.service.live()
    served.engine._hung_at = time.monotonic() - 301
    assert not served.service.live()


async def test_a_stalled_engine_is_distinguished_from_a_hung_one(served: Served) -> None:
    running = asyncio.create_task(served.chat('@{"action": "stall"}'))
    await until(lambda: served.service.alert_state.zero_work)
    assert [alert["name"] for alert in (await served.metrics())["alerts"]] == ["GenerationStalled"]
    assert (await served.chat()).status_code == 503
    served.engine.resume()
    assert (await running).status_code == 200


async def test_an_idle_engine_that_answers_never_alerts(served: Served) -> None:
    await asyncio.sleep(0.6)
    assert (await served.metrics())["alerts"] == []


async def test_a_loop_that_was_held_up_does_not_blame_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = [{"name": name, "threshold": 1.0} for name in ("EngineUnresponsive", "GenerationStalled")]
    (tmp_path / "alerts.json").write_text(json.dumps({"alerts": alerts}))
    async with serve(alerts_file=tmp_path / "alerts.json") as served:
        assert await alerts_of_a_loop_held_up(served, monkeypatch) == []


async def alerts_of_a_loop_held_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is raised while the loop stands still twice, with an engine at work that answers."""
    beats = [time.monotonic()]
    seen: list[str] = []

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.01)
            for _ in range(5):  # engine events take a few turns of the loop: socket, task, counters
                await asyncio.sleep(0)
            beats.append(time.monotonic())

    def vitals() -> Vitals:
        return Vitals("ready", unfinished=1, last_step_at=beats[-1], last_token_at=beats[-1], busy_since=beats[0])

    evaluate = served.service.evaluate

    def watched() -> None:
        evaluate()
        seen.extend(alert.rule.name for alert in served.service.alert_state.active)

    monkeypatch.setattr(served.engine, "vitals", vitals)
    monkeypatch.setattr(served.service, "evaluate", watched)
    heart = asyncio.create_task(beat())
    for _ in range(2):
        await asyncio.sleep(0.1)
        time.sleep(1.2)  # noqa: ASYNC251 (the loop is held up, as by a long collection of garbage)
    await asyncio.sleep(0.2)
    heart.cancel()
    return seen


async def test_a_proof_by_generation_has_a_deadline(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_server.api.routes.health.GENERATE_SECONDS", 0.1)
    served.engine.hang()
    response = await served.client.get("/health/generate")
    assert response.status_code == 503
    served.engine.resume()
    assert await status_of(served, "/health/generate") == 200
    assert (await served.metrics())["requests"]["total"] == 0


async def test_many_who_ask_for_a_proof_share_one(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, came, may_end = [], [], asyncio.Event()

    async def probe() -> None:
        begun.append(1)
        await may_end.wait()

    def proof(request: Request) -> asyncio.Task[None]:
        came.append(1)
        return shared(request)

    shared = health._proof
    monkeypatch.setattr(served.engine, "probe", probe)
    monkeypatch.setattr(health, "_proof", proof)
    asked = [asyncio.create_task(status_of(served, "/health/generate")) for _ in range(20)]
    await until(lambda: len(came) == 20)
    asked[0].cancel()
    may_end.set()
    assert await asyncio.gather(*asked[1:]) == [200] * 19
    assert len(begun) == 1
    assert await status_of(served, "/health/generate") == 200
    assert len(begun) == 2


async def test_a_proof_that_the_engine_refuses_is_no_proof(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> None:
        raise InvalidRequestError("the context is too short")

    monkeypatch.setattr(served.engine, "probe", refuse)
    response = await served.client.get("/health/generate")
    assert response.status_code == 503
    assert response.json() == {"status": "unhealthy", "error": "the context is too short"}


async def test_a_stream_whose_reader_is_too_slow_is_not_the_servers_failure() -> None:
    settings: dict[str, Any] = {"request_timeout": 2.0, "max_tokens_limit": 5000, "send_buffer": 4096}
    async with serve(**settings) as served, deaf(served) as client:
        await client.send(ask(stream=True, tokens=5000, max_tokens=5000))
        counters = served.service.figures.counters
        await until(counters.outcomes.total, 10.0)
        assert dict(counters.outcomes) == {"aborted": 1}
        assert not counters.errors
        assert served.service.admission.running == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_failure_is_a_500_with_its_text(served: Served, stream: bool) -> None:
    response = await served.chat('@{"fail": "CUDA out of memory. Tried to allocate 2 GiB"}', stream=stream)
    assert response.status_code == 500
    assert response.json() == {"error": "CUDA out of memory. Tried to allocate 2 GiB"}
    metrics = await served.metrics()
    assert metrics["errors"] == {"total": 1, "by_type": {"out_of_memory": 1}}
    assert (metrics["requests"]["failed"], metrics["requests"]["error_rate_percent"]) == (1, 100.0)


async def test_a_failure_in_a_started_stream_is_its_last_event(served: Served) -> None:
    response = await served.chat('@{"fail": "boom", "after": 3}', stream=True)
    assert response.status_code == 200
    *chunks, last = events_of(response.text)
    assert len(chunks) == 3
    assert last == {"error": {"message": "boom", "type": "internal_error", "param": None, "code": None}}


async def test_a_failure_of_the_reference_path_is_reported_alike(served: Served) -> None:
    response = await served.chat('@{"fail": "boom"}', logprobs=True, stream=True)
    assert (response.status_code, response.json()) == (500, {"error": "boom"})
    response = await served.chat('@{"fail": "boom", "after": 2}', logprobs=True, stream=True)
    assert [event.get("error", {}).get("message") for event in events_of(response.text)] == [None, None, "boom"]
    response = await served.chat('@{"fail": "boom"}', logprobs=True)
    assert (response.status_code, response.json()) == (500, {"error": "boom"})


async def test_when_the_engine_dies_every_request_gets_the_cause(served: Served) -> None:
    streams = [asyncio.create_task(served.chat(RUNNING, stream=True, max_tokens=500)) for _ in range(2)]
    unstarted = asyncio.create_task(served.chat('@{"first": 20}'))
    waiting = asyncio.create_task(served.chat())
    await until(lambda: served.engine.generated > 4 and served.service.admission.waiting == 1)
    served.engine.die("CUDA error: device-side assert triggered")
    for task in streams:
        last = events_of((await task).text)[-1]
        assert last["error"]["message"] == "CUDA error: device-side assert triggered"
    for response in (await unstarted, await waiting):
        assert response.status_code == 500
        assert response.json() == {"error": "CUDA error: device-side assert triggered"}
    await until(lambda: served.service.alert_state.fires("EngineDead"))
    served.lifecycle.mark_dead("CUDA error: device-side assert triggered")
    response = await served.chat()
    assert (response.status_code, response.headers["connection"]) == (500, "close")
    assert (await served.metrics())["status"] == "unhealthy"
    assert await status_of(served, "/health/live") == 503
    assert await status_of(served, "/health/ready") == 503


async def test_an_unexpected_accident_is_a_500_without_a_traceback(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(served.engine, "prepare_chat", broken)
    response = await served.chat()
    assert (response.status_code, response.json()) == (500, {"error": "internal server error"})
    assert served.service.admission.running == 0
    assert (await served.metrics())["errors"]["by_type"] == {"internal": 1}


async def test_a_high_error_rate_is_critical_and_closes_connections_without_refusing(served: Served) -> None:
    for _ in range(10):
        await served.chat()
    assert "connection" not in (await served.chat()).headers
    for _ in range(12):
        await served.chat('@{"fail": "boom"}')
    await until(lambda: served.service.alert_state.fires("HighErrorRate"))
    response = await served.chat()
    assert (response.status_code, response.headers["connection"]) == (200, "close")
    assert (await served.metrics())["status"] == "unhealthy"


async def test_a_changed_alerts_file_takes_effect_without_a_restart(served: Served) -> None:
    path = served.service.settings.alerts_file
    path.write_text(json.dumps({"alerts": [{"name": "KVCacheSaturated", "threshold": 50, "for": 0}]}))
    served.engine.kv_cache_usage = 0.6
    await until(lambda: served.service.alert_state.fires("KVCacheSaturated"))
    assert (await served.metrics())["status"] == "degraded"
    assert (await served.chat()).status_code == 200


async def test_only_a_bearer_of_a_key_may_call_v1(tmp_path: Path) -> None:
    (tmp_path / "team-a").write_text("secret-a\n")
    async with serve(api_keys_dir=tmp_path) as served:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret-a"}):
            response = await served.client.get("/v1/models", headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            response = await served.client.post("/v1/completions", json={"prompt": "x"}, headers=headers)
            assert response.status_code == 401
        assert await status_of(served, "/health") == 200
        (tmp_path / "team-b").write_text("secret-b")
        for key in ("secret-a", "secret-b"):
            headers = {"authorization": f"Bearer {key}"}
            async with asyncio.timeout(5):  # the new file is found within a tick
                while (await served.client.get("/v1/models", headers=headers)).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


def test_the_hung_thresholds_leave_room_for_the_kubelet() -> None:
    assert all(4 * seconds <= 300 for seconds in HUNG_SECONDS.values())
