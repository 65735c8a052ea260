"""Tenants share slots and places by their weights: the rules, on a clock of the test."""

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qwen_server.control.admission import Admission, DisplacedError, QueueFullError, Ticket
from qwen_server.observe.request_figures import percentile


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(limit: int, queue: int, reserve: int = 0, **weights: float) -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission(limit, queue, weights=weights, reserve=reserve, clock=clock, jitter=lambda: 0.5), clock


@dataclass(frozen=True)
class Load:
    """A tenant that has `clients`, each with one request at a time of `seconds` on average.

    pause: the seconds between a client's answer and its next request.
    """

    clients: int
    seconds: float
    pause: float = 0.001


@dataclass(frozen=True)
class Played:
    """What each tenant had: time of slots, waits of its requests, and refusals."""

    slot_seconds: dict[str, float]
    waits: dict[str, list[float]]
    refused: Counter[str]


def play(admission: Admission, clock: Clock, loads: Mapping[str, Load], until: float) -> Played:
    """Plays the clients against the admission for `until` seconds."""
    end = clock.now + until
    order = itertools.count()
    vary = random.Random(1)
    # Staggered, so that not all turns end at the same time.
    events: list[tuple[float, int, str, Ticket | None]] = [
        (clock.now + 0.0137 * number, next(order), name, None)
        for name, load in loads.items()
        for number in range(load.clients)
    ]
    heapq.heapify(events)
    waiting: dict[Ticket, tuple[str, float]] = {}
    played = Played(dict.fromkeys(loads, 0.0), {name: [] for name in loads}, Counter())
    while events and events[0][0] < end:
        clock.now, _, name, ticket = heapq.heappop(events)
        load = loads[name]
        if ticket is None:
            try:
                waiting[admission.enter(1, name)] = (name, clock.now)
            except QueueFullError:
                played.refused[name] += 1
                heapq.heappush(events, (clock.now + 0.1, next(order), name, None))
        else:
            assert ticket.granted is not None
            played.slot_seconds[name] += clock.now - ticket.granted
            admission.leave(ticket, generated=True)
            heapq.heappush(events, (clock.now + load.pause, next(order), name, None))
        for entered, (owner, since) in list(waiting.items()):
            if entered.granted is not None:
                played.waits[owner].append(clock.now - since)
                seconds = loads[owner].seconds * vary.uniform(0.5, 1.5)
                heapq.heappush(events, (clock.now + seconds, next(order), owner, entered))
            elif entered.displaced:
                played.refused[owner] += 1
                heapq.heappush(events, (clock.now + 0.1, next(order), owner, None))
            else:
                continue
            del waiting[entered]
    return played


@pytest.mark.parametrize(("reserve", "most"), [(0, 4.0), (4, 1.2)])
def test_a_tenant_at_ten_times_its_share_hardly_delays_another(reserve: int, most: float) -> None:
    """16 slots, answers of 2 s with the first token after 0.25 s, and a queue for all of them.

    Without a reserve, a request waits for the next slots that become free.
    """
    first_token = 0.25
    loads = {"modest": Load(4, 2.0, pause=0.5), "greedy": Load(80, 2.0)}

    def p99(*names: str) -> float:
        admission, clock = make(16, 100, reserve)
        played = play(admission, clock, {name: loads[name] for name in names}, until=600)
        found = percentile(sorted(wait + first_token for wait in played.waits["modest"]), 99)
        assert found is not None
        assert len(played.waits["modest"]) > 500
        return found

    ratio = p99("modest", "greedy") / p99("modest")
    print(f"\nreserve {reserve}: p99 of the time to the first token beside the other, over that alone: {ratio:.3f}")
    assert ratio <= most


@settings(max_examples=60, deadline=None)
@given(
    weights=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    limit=st.integers(1, 8),
    seconds=st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)),
)
def test_tenants_that_always_wait_get_slots_by_their_weights(
    weights: tuple[int, int], limit: int, seconds: tuple[float, float]
) -> None:
    admission, clock = make(limit, 100, a=weights[0], b=weights[1])
    loads = {"a": Load(limit + 12, seconds[0]), "b": Load(limit + 12, seconds[1])}
    used = play(admission, clock, loads, until=200).slot_seconds
    share = used["a"] / (used["a"] + used["b"])
    # The longest turns that both may hold too much, of the time that was played.
    slack = limit * (sum(seconds) + max(seconds)) / (200 * limit) + 0.03
    assert share == pytest.approx(weights[0] / sum(weights), abs=slack)


def test_what_a_tenant_used_while_nobody_waited_is_not_held_against_it() -> None:
    admission, clock = make(4, 10)
    alone = [admission.enter(1, "a") for _ in range(4)]
    clock.now += 600
    waiting = [admission.enter(1, name) for name in ("a", "b", "a", "b", "a", "b")]
    for ticket in alone:
        clock.now += 1
        admission.leave(ticket, generated=True)
    assert Counter(ticket.tenant.name for ticket in waiting if ticket.granted is not None) == {"a": 2, "b": 2}
    for ticket in [ticket for ticket in waiting if ticket.granted is not None]:
        clock.now += 1
        admission.leave(ticket, generated=True)
    assert all(ticket.granted is not None for ticket in waiting)


def test_slots_that_become_free_together_are_shared() -> None:
    admission, _ = make(4, 20, b=3)
    heavy = admission.enter(4, "a")
    waiting = [admission.enter(1, name) for name in "aaaabbbb"]
    admission.leave(heavy)
    assert Counter(ticket.tenant.name for ticket in waiting if ticket.granted is not None) == {"a": 1, "b": 3}


def test_a_full_queue_gives_the_youngest_place_of_the_largest_tenant_to_a_smaller_one() -> None:
    admission, clock = make(1, 4)
    greedy = [admission.enter(1, "greedy") for _ in range(5)]
    modest = admission.enter(1, "modest")
    assert [ticket.state for ticket in greedy] == ["running", "waiting", "waiting", "waiting", "left"]
    assert greedy[4].displaced
    assert (modest.state, admission.waiting, admission.running) == ("waiting", 4, 1)
    admission.leave(greedy[4])
    clock.now += 1
    admission.leave(greedy[0])
    assert modest.state == "running"


def test_places_are_not_taken_back_and_forth() -> None:
    admission, _ = make(1, 5)
    for name in ("a", "a", "a", "b", "b", "b"):
        admission.enter(1, name)
    for name in ("a", "b"):
        with pytest.raises(QueueFullError):
            admission.enter(1, name)
    assert admission.enter(1, "c").state == "waiting"


async def test_who_loses_its_place_learns_it_at_once() -> None:
    admission, _ = make(1, 1)
    admission.enter(1, "a")
    waiting = admission.enter(1, "a")
    admission.enter(1, "b")
    with pytest.raises(DisplacedError):
        await admission.wait(waiting, 5)
    admission.leave(waiting)
    assert (admission.waiting, admission.running) == (1, 1)


def test_retry_after_is_that_of_the_tenant() -> None:
    admission, clock = make(2, 40, gold=3)
    for _ in range(200):
        ticket = admission.enter(1)
        clock.now += 4.0
        admission.leave(ticket, generated=True)  # 0.5 requests a second
    for name in ["free"] * 10 + ["gold"] * 2:
        admission.enter(1, name)
    # free: 8 wait with a quarter of the rate; gold: 2 with three quarters; a new one has a fifth.
    assert [admission.retry_after(name) for name in ("free", "gold", "new")] == [30, 8, 10]


class SharesMachine(RuleBasedStateMachine):
    """Any arrivals, endings and changes of limits of four tenants."""

    def __init__(self) -> None:
        super().__init__()
        self.admission, self.clock = make(3, 5, b=2, c=5)
        self.tickets: list[Ticket] = []
        self.limits = (3, 5)

    @rule(name=st.sampled_from("abcd"), weight=st.integers(1, 4))
    def arrive(self, name: str, weight: int) -> None:
        before = self.admission.waiting
        try:
            self.tickets.append(self.admission.enter(weight, name))
        except QueueFullError:
            assert before >= self.limits[1], "refused although the queue had room"
        for ticket in [ticket for ticket in self.tickets if ticket.displaced]:
            assert before >= self.limits[1], "displaced although the queue had room"
            assert ticket.granted is None
            assert ticket.tenant.name != name
            self.admission.leave(ticket)
            self.tickets.remove(ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def leave(self, data: st.DataObject, seconds: float) -> None:
        self.clock.now += seconds
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        self.admission.leave(ticket, generated=True)

    @rule(limit=st.integers(1, 5), queue=st.integers(0, 6))
    def resize(self, limit: int, queue: int) -> None:
        self.limits = (limit, queue)
        self.admission.resize(limit, queue)

    @invariant()
    def no_slot_is_free_while_a_request_waits_that_fits(self) -> None:
        waiting = [ticket for ticket in self.tickets if ticket.granted is None]
        free = self.admission.limit - self.admission.load
        assert not waiting or any(ticket.weight > free for ticket in waiting)

    @invariant()
    def tenants_are_served_in_the_order_of_their_arrivals(self) -> None:
        for name in "abcd":
            granted = [ticket.granted is not None for ticket in self.tickets if ticket.tenant.name == name]
            assert True not in itertools.dropwhile(lambda had: had, granted)

    @invariant()
    def the_figures_of_the_tenants_add_up(self) -> None:
        counts = [self.admission.counts_of(name) for name in "abcd"]
        assert sum(waiting for waiting, _ in counts) == self.admission.waiting
        assert sum(running for _, running in counts) == self.admission.running
        assert self.admission.running + self.admission.waiting == len(self.tickets)

    def teardown(self) -> None:
        for ticket in self.tickets:
            self.admission.leave(ticket)
        assert (self.admission.load, self.admission.waiting) == (0, 0)
        assert list(self.admission._shares) == []


TestShares = SharesMachine.TestCase
TestShares.settings = settings(max_examples=100, stateful_step_count=30)


@settings(max_examples=40, deadline=None)
@given(endings=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 5)), min_size=200, max_size=200))
def test_nobody_starves(endings: list[tuple[int, float]]) -> None:
    """A tenant of the least weight and its heaviest request run beside two that never stop."""
    admission, clock = make(3, 50, big=1000, other=100)
    running: deque[Ticket] = deque()

    def refill() -> None:
        for name in ("big", "other"):
            while admission.counts_of(name)[0] < 5:
                running.append(admission.enter(1, name))

    refill()
    small = admission.enter(3, "small")
    for index, seconds in itertools.cycle(endings):
        if small.granted is not None:
            return
        held = [ticket for ticket in running if ticket.granted is not None]
        clock.now += seconds
        admission.leave(held[index % len(held)], generated=True)
        running.remove(held[index % len(held)])
        refill()
        assert clock.now < 100 + 5000


def test_a_reserve_holds_slots_for_tenants_below_their_share() -> None:
    admission, _ = make(4, 10, reserve=1)
    alone = [admission.enter(1, "a") for _ in range(5)]
    assert [ticket.state for ticket in alone] == ["running"] * 4 + ["waiting"]  # nobody else is here
    modest = admission.enter(1, "b")
    admission.leave(alone[0])
    admission.leave(alone[1])
    assert (modest.state, alone[4].state, admission.load) == ("running", "waiting", 3)
    assert admission.enter(1, "b").state == "running"


def test_a_request_that_needs_the_reserve_runs_when_its_tenant_has_nothing_else() -> None:
    admission, _ = make(4, 10, reserve=2)
    admission.enter(1, "b")
    light, heavy = admission.enter(1, "a"), admission.enter(3, "a")
    assert heavy.granted is None
    admission.leave(light)
    assert heavy.granted is not None


def test_the_reserve_remembers_for_a_minute_who_was_here() -> None:
    admission, clock = make(4, 10, reserve=1)
    admission.leave(admission.enter(1, "b"))
    assert [admission.enter(1, "a").state for _ in range(4)] == ["running"] * 3 + ["waiting"]
    clock.now += 61
    assert admission.enter(1, "a").state == "waiting"
    assert admission.counts_of("a") == (1, 4)
