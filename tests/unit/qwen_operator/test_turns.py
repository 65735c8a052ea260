"""Whose turn it is in the queue of reconciliations: tenants, keys that are first, and the cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.api.objects import Key
from qwen_operator.kube.turns import Turns
from qwen_operator.kube.workqueue import WorkQueue
from tests.unit.qwen_operator.kube_server import until

keys = st.tuples(st.sampled_from("abc"), st.sampled_from("wxyz"))
operations = st.lists(
    st.tuples(st.sampled_from(["put", "first", "hurry", "discard", "take", "take by time", "done"]), keys), max_size=80
)


def namespace(key: Key) -> str:
    return key[0]


@dataclass
class Model:
    """What `Turns` promises, computed from lists.

    Attributes:
        waiting: the keys that wait, in the order in which they became ready.
        since: when each tenant began to wait or had its last turn since then.
        served: the tenants of which that was a turn.
    """

    waiting: list[Key] = field(default_factory=list)
    first: list[Key] = field(default_factory=list)
    handled: list[Key] = field(default_factory=list)
    since: dict[str, int] = field(default_factory=dict)
    served: set[str] = field(default_factory=set)

    def put(self, key: Key, now: int, *, first: bool) -> None:
        if key not in self.waiting:
            self.waiting.append(key)
            self.since.setdefault(key[0], now)
        if first:
            self.hurry(key)

    def hurry(self, key: Key) -> None:
        if key in self.waiting and key not in self.first:
            self.first.append(key)

    def remove(self, key: Key) -> None:
        if key in self.waiting:
            self.waiting.remove(key)
        if key in self.first:
            self.first.remove(key)
        if key[0] not in map(namespace, self.waiting):
            self.since.pop(key[0], None)
            self.served.discard(key[0])

    def expected(self, *, by_time: bool) -> Key | None:
        """The key whose turn it is."""

        def rank(tenant: str) -> tuple[int, bool, int]:
            urgent = tenant not in self.served and tenant in map(namespace, self.first)
            return list(map(namespace, self.handled)).count(tenant), by_time or not urgent, self.since[tenant]

        if not self.waiting:
            return None
        tenant = min(self.since, key=rank)
        mine = [key for key in self.waiting if key[0] == tenant]
        hurried = [key for key in self.first if key[0] == tenant]
        return mine[0] if by_time or not hurried else hurried[0]

    def take(self, key: Key, now: int) -> None:
        self.remove(key)
        self.handled.append(key)
        if key[0] in self.since:
            self.since[key[0]] = now
            self.served.add(key[0])


@given(operations)
def test_the_next_key_is_the_one_that_is_promised(steps: Sequence[tuple[str, Key]]) -> None:
    turns: Turns[Key] = Turns(namespace)
    model = Model()
    for now, (step, key) in enumerate(steps):
        if step.startswith("take"):
            by_time = step == "take by time"
            taken = turns.take(by_time=by_time)
            assert taken == model.expected(by_time=by_time)
            if taken is not None:
                model.take(taken, now)
        elif step == "done":
            if model.handled:
                turns.done(model.handled.pop(0))
        elif step == "discard":
            turns.discard(key)
            model.remove(key)
        elif step == "hurry":
            turns.hurry(key)
            model.hurry(key)
        elif key not in model.handled:  # the queue offers none that is being handled
            turns.put(key, first=step == "first")
            model.put(key, now, first=step == "first")


class Tenants:
    """A queue whose keys are pairs of tenant and name, and the order in which it handles them.

    The names of a hot tenant begin with `hot`: each of its keys is added again, first, whenever it
    is handled. `then` is called after each key with the number of those that were handled.
    """

    def __init__(self, then: Callable[[int], None] = lambda _: None) -> None:
        self.order: list[Key] = []
        self._then = then
        self.queue: WorkQueue[Key] = WorkQueue(self._work, lambda *_: None, rest=0.0, tenant=namespace)

    async def _work(self, key: Key) -> None:
        self.order.append(key)
        if key[0].startswith("hot"):
            self.queue.add(key, 0.0, first=True)
        self._then(len(self.order))
        await asyncio.sleep(0)

    async def run(self, *awaited: Key) -> None:
        """Runs until these keys have been handled."""
        task = asyncio.create_task(self.queue.run())
        await until(lambda: set(awaited) <= set(self.order))
        task.cancel()
        await asyncio.wait((task,))


async def test_a_thousand_hot_keys_of_a_tenant_delay_no_other() -> None:
    calm = ("calm", "one")

    def then(count: int) -> None:
        if count == 100:
            tenants.queue.add(calm, 0.0)

    tenants = Tenants(then)
    for number in range(1000):
        tenants.queue.add(("hot", f"{number:04}"), 0.0, first=True)
    await tenants.run(calm)
    assert tenants.order.index(calm) <= 104  # each of the four workers may have begun with another one


async def test_hot_tenants_get_a_turn_each_and_no_more() -> None:
    calm = [(f"calm{number:02}", "one") for number in range(30)]
    tenants = Tenants()
    for number in range(150):
        tenants.queue.add((f"hot{number % 3}", f"{number:04}"), 0.0, first=True)
    for key in calm:
        tenants.queue.add(key, 0.0)
    await tenants.run(*calm)
    last = max(tenants.order.index(key) for key in calm)
    hot = [key for key in tenants.order[:last] if key[0].startswith("hot")]
    assert len(hot) <= 3 * 2 + 4


async def test_a_change_does_not_wait_behind_what_other_tenants_had_at_the_start() -> None:
    tenants = Tenants()
    for number in range(300):
        tenants.queue.add((f"old{number:03}", "one"), 0.0)
    new = ("new", "one")
    tenants.queue.add(new, 0.0, first=True)
    await tenants.run(new)
    assert tenants.order.index(new) <= 2


class Counted:
    """A key that counts how often one of its kind is looked up in a table."""

    lookups: ClassVar[int] = 0

    def __hash__(self) -> int:
        Counted.lookups += 1
        return super().__hash__()


async def test_a_turn_costs_the_same_with_many_keys() -> None:
    """Each turn looked at all keys, so that 2,000 of them cost some ten million lookups."""
    left = 2000

    async def work(_: Counted) -> None:
        nonlocal left
        left -= 1

    queue: WorkQueue[Counted] = WorkQueue(work, lambda *_: None, rest=0.0)
    for _ in range(left):
        queue.add(Counted(), 0.0)
    task = asyncio.create_task(queue.run())
    await until(lambda: left == 0)
    task.cancel()
    await asyncio.wait((task,))
    assert Counted.lookups <= 50 * 2000
