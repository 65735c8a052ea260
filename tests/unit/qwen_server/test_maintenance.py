"""What an order to sleep and to wake up asks of vLLM."""

from types import SimpleNamespace
from typing import Any

import pytest

from qwen_server.engine.base import EngineError
from qwen_server.engine.vllm.heartbeat import Heartbeat
from qwen_server.engine.vllm.maintenance import VllmMaintenance

pytestmark = pytest.mark.asyncio
WEIGHTS, CACHE = "weights", "kv_cache"


class Llm:
    """Answers as vLLM's engine: it is awake when nothing sleeps, and it notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.asleep: set[str] = set()
        self.broken = False

    async def sleep(self, level: int, mode: str) -> None:
        self.asked.append(f"sleep {level} {mode}")
        self.asleep = {WEIGHTS, CACHE} if level else set()

    async def wake_up(self, tags: list[str] | None) -> bool:
        self.asked.append(tags)
        self.asleep -= {WEIGHTS, CACHE} if tags is None else set(tags)
        return not self.asleep

    async def collective_rpc(self, method: str) -> list[None]:
        self.asked.append(method)
        if self.broken:
            raise RuntimeError("no such file")
        return [None]


@pytest.fixture
def llm() -> Llm:
    return Llm()


@pytest.fixture
def maintenance(llm: Llm) -> VllmMaintenance:
    parts = SimpleNamespace(llm=llm)
    heartbeat = Heartbeat()
    return VllmMaintenance(lambda: parts, lambda: heartbeat)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("level", [0, 1])
async def test_weights_that_were_kept_are_not_read_again(llm: Llm, maintenance: VllmMaintenance, level: int) -> None:
    await maintenance.sleep(level)
    assert await maintenance.wake_up(None)
    assert llm.asked == [f"sleep {level} abort", None]


@pytest.mark.parametrize("tags", [None, (WEIGHTS, CACHE), (CACHE, WEIGHTS)])
async def test_weights_that_were_freed_are_read_again(
    llm: Llm, maintenance: VllmMaintenance, tags: tuple[str, ...] | None
) -> None:
    await maintenance.sleep(2)
    assert await maintenance.wake_up(tags)
    assert llm.asked[1:] == [[WEIGHTS], "reload_weights", [CACHE]]
    assert not maintenance.asleep
    assert await maintenance.wake_up(None)
    assert llm.asked[4:] == [None]


async def test_weights_and_cache_come_back_one_by_one(llm: Llm, maintenance: VllmMaintenance) -> None:
    await maintenance.sleep(2)
    assert not await maintenance.wake_up([CACHE])
    assert llm.asked[1:] == [[CACHE]]
    assert await maintenance.wake_up([WEIGHTS])
    assert llm.asked[2:] == [[WEIGHTS], "reload_weights"]


async def test_an_engine_without_its_weights_is_not_awake(llm: Llm, maintenance: VllmMaintenance) -> None:
    """The files may be gone. The next order reads them again."""
    await maintenance.sleep(2)
    llm.broken = True
    with pytest.raises(EngineError, match="no such file"):
        await maintenance.wake_up(None)
    assert maintenance.asleep
    llm.broken = False
    assert await maintenance.wake_up(None)
    assert llm.asked[-2:] == ["reload_weights", [CACHE]]
    assert not maintenance.asleep


async def test_a_new_engine_has_its_weights() -> None:
    engines = [SimpleNamespace(llm=Llm()), SimpleNamespace(llm=Llm())]
    heartbeat = Heartbeat()
    maintenance = VllmMaintenance(lambda: engines[0], lambda: heartbeat)  # type: ignore[arg-type,return-value]
    await maintenance.sleep(2)
    dead = engines.pop(0)
    assert await maintenance.wake_up(None)
    assert (dead.llm.asked, engines[0].llm.asked) == (["sleep 2 abort"], [None])
