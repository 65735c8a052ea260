"""Whose turn it is in a queue that several tenants fill."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from qwen_operator.api.objects import Key
from qwen_operator.kube.fair_queue import FairQueue, next_group

groups = st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"))


def test_the_next_group_is_the_least_busy_one_of_the_least_busy_namespace() -> None:
    waiting = {"a": ["x", "y"], "b": ["x", "z"]}
    assert next_group(waiting, {}, {}) == ("a", "x")
    assert next_group(waiting, {"a": 1}, {("a", "y"): 1}) == ("b", "x")
    assert next_group(waiting, {"a": 1, "b": 1}, {("a", "x"): 1}) == ("a", "y")
    assert next_group(waiting, {"a": 2, "b": 1}, {("b", "x"): 1}) == ("b", "z")


async def test_namespaces_take_turns_and_so_do_the_groups_of_each() -> None:
    queue: FairQueue[int] = FairQueue()
    for number, group in enumerate([("a", "x"), ("a", "x"), ("a", "y"), ("a", "y"), ("b", "z"), ("b", "z")]):
        queue.put(group, number)
    turns: list[int] = []
    for _ in range(6):
        group, number = await queue.get()
        turns.append(number)
        queue.done(group)
    assert turns == [0, 4, 2, 5, 1, 3]


async def test_what_is_handled_counts_until_it_is_done() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(4):
        queue.put(("a", f"x{number}"), number)
    queue.put(("b", "y"), 9)
    assert [await queue.get() for _ in range(3)] == [(("a", "x0"), 0), (("b", "y"), 9), (("a", "x1"), 1)]
    queue.put(("b", "y"), 10)
    queue.done(("b", "y"))
    assert [await queue.get() for _ in range(2)] == [(("b", "y"), 10), (("a", "x2"), 2)]


@given(offered=st.lists(groups, max_size=60), workers=st.integers(1, 8))
def test_nobody_gets_more_than_a_share_while_others_wait(offered: list[Key], workers: int) -> None:
    asyncio.run(serve(offered, workers))


async def serve(offered: list[Key], workers: int) -> None:
    """Lets workers handle items that were all offered before, and checks each turn."""
    queue: FairQueue[int] = FairQueue()
    for number, group in enumerate(offered):
        queue.put(group, number)
    waiting, busy = Counter(offered), deque[Key]()
    latest: dict[str, int] = {}
    order: dict[Key, int] = {}
    for turn in range(len(offered)):
        if len(busy) == workers:
            queue.done(busy.popleft())
        group, number = await queue.get()
        namespaces = {namespace for namespace, _ in waiting}
        shares, handled = Counter(namespace for namespace, _ in busy), Counter(busy)
        assert shares[group[0]] == min(shares[namespace] for namespace in namespaces)
        assert handled[group] == min(handled[other] for other in waiting if other[0] == group[0])
        if workers == 1:  # then nothing is being handled, and it is a matter of turns
            assert latest.get(group[0], -1) == min(latest.get(namespace, -1) for namespace in namespaces)
        assert number > order.get(group, -1)
        latest[group[0]], order[group] = turn, number
        waiting -= Counter([group])
        busy.append(group)
    assert not waiting
