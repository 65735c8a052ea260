"""What the engine does before its first client, and in its first minutes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from qwen_server.control.alerts import catalogue, override, while_young
from qwen_server.control.lifecycle import Lifecycle
from qwen_server.control.service import Service
from qwen_server.engine.base import BusyError, EngineError
from qwen_server.engine.vllm.warmup import warm_up, warm_up_pooling
from qwen_server.observe.gpu import GpuMonitor
from tests.scripted_engine import ScriptedEngine
from tests.unit.qwen_server.serving import make_settings


class Recorder:
    """Both paths of an engine that only notes what it is asked, and how much at a time."""

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self.running = self.most = 0

    async def prepare(self, body: Mapping[str, Any], *_: Any) -> Mapping[str, Any]:
        self.bodies.append(body)
        if "response_format" in body:
            raise BusyError("no grammars here")
        return body

    prepare_chat = prepare_completion = prepare

    async def generate(self, _: Any) -> AsyncIterator[None]:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        yield

    async def answer(self, _: str, body: Mapping[str, Any], *__: Any) -> None:
        self.bodies.append(body)


async def asked(*, wide: bool = False, images: bool = False) -> Recorder:
    recorder = Recorder()
    await warm_up(cast("Any", recorder), cast("Any", recorder), wide=wide, images=images)
    return recorder


async def test_on_a_gpu_the_warm_up_covers_what_compiles_kernels(caplog: pytest.LogCaptureFixture) -> None:
    narrow, wide = await asked(wide=False), await asked(wide=True)
    fields = {name for body in wide.bodies for name in body}
    assert {"response_format", "repetition_penalty", "frequency_penalty", "logprobs", "n", "logit_bias"} <= fields
    assert (narrow.most, wide.most) == (1, 2)
    assert len(narrow.bodies) == 9
    assert "warm-up: no grammars here" in caplog.text  # which is no reason not to start


async def test_a_model_that_reads_images_is_warmed_up_with_one() -> None:
    with_image = (await asked(images=True)).bodies
    image, text = with_image[0]["messages"][0]["content"]
    assert (image["type"], image["image_url"]["url"][:22]) == ("image_url", "data:image/png;base64,")
    assert text["type"] == "text"
    assert with_image[1:] == (await asked()).bodies


async def test_a_model_that_is_not_made_for_its_task_ends_the_start() -> None:
    """What the runner makes of it: exit 78 with this text (test_lifecycle_of_program.py)."""

    class Unfit:
        async def answer(self, *_: Any) -> None:
            raise EngineError("--task=embed: this model cannot do it")

    with pytest.raises(EngineError, match="this model cannot do it"):
        await warm_up_pooling("embed", cast("Any", Unfit()))


def threshold(rules: Any) -> float:
    [found] = [rule.threshold for rule in rules if rule.name == "EngineUnresponsive"]
    return float(found)


@pytest.mark.parametrize(("ready", "expected"), [(0, 60), (299, 60), (300, 15), (9000, 15)])
def test_a_young_engine_on_a_gpu_may_take_as_long_as_one_on_a_cpu(ready: float, expected: float) -> None:
    rules = catalogue("cuda")
    young = while_young(rules, "cuda", ready)
    assert threshold(young) == expected
    assert [rule for rule in young if rule.name != "EngineUnresponsive"] == [
        rule for rule in rules if rule.name != "EngineUnresponsive"
    ]


def test_a_threshold_of_the_user_holds_from_the_beginning() -> None:
    rules = override(catalogue("cuda"), {"alerts": [{"name": "EngineUnresponsive", "threshold": 20}]})
    assert threshold(while_young(rules, "cuda", 0)) == 20


@pytest.mark.parametrize(("device", "first", "then"), [("cuda", 60, 15), ("cpu", 60, 60)])
async def test_the_service_counts_from_when_the_engine_was_ready(device: Any, first: float, then: float) -> None:
    now = 1000.0
    engine = ScriptedEngine()
    engine.info = dataclasses.replace(engine.info, device=device)
    lifecycle = Lifecycle(clock=lambda: now)
    service = Service(make_settings(device=device), engine, lifecycle, gpu=GpuMonitor(), clock=lambda: now)
    with contextlib.suppress(Exception):
        service.tick()
    assert threshold(service.rules) == then
    await engine.start()
    lifecycle.mark_ready()
    service.tick()
    assert threshold(service.rules) == first
    now += 301
    assert threshold(service.rules) == then
    lifecycle.begin_restart("died")
    lifecycle.end_restart()
    assert threshold(service.rules) == first, "the engine is young again"
    now += 301
    assert threshold(service.rules) == then
