import asyncio
import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qwen_server.control.admission import Admission, QueueFullError, QueueTimeoutError, Ticket
from qwen_server.control.auto_limits import AutoLimits

LIMIT = 3
QUEUE = 4


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(limit: int = 3, queue: int = 10) -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission(limit, queue, clock=clock, jitter=lambda: 0.5), clock


def test_three_run_ten_wait_and_the_fourteenth_is_refused() -> None:
    admission, _ = make()
    tickets = [admission.enter(1) for _ in range(13)]
    assert [ticket.state for ticket in tickets] == ["running"] * 3 + ["waiting"] * 10
    with pytest.raises(QueueFullError):
        admission.enter(1)
    assert (admission.running, admission.waiting, admission.peak) == (3, 10, 3)


def test_the_first_in_line_runs_next() -> None:
    admission, _ = make(limit=1)
    first, second, third = (admission.enter(1) for _ in range(3))
    admission.leave(first)
    assert (second.state, third.state) == ("running", "waiting")


def test_a_heavy_request_at_the_head_is_not_overtaken() -> None:
    admission, _ = make()
    running = [admission.enter(1) for _ in range(3)]
    heavy, light = admission.enter(3), admission.enter(1)
    for ticket in running[:2]:
        admission.leave(ticket)
        assert (heavy.state, light.state) == ("waiting", "waiting")
    admission.leave(running[2])
    assert (heavy.state, light.state) == ("running", "waiting")


def test_a_request_heavier_than_the_limit_runs_alone() -> None:
    admission, _ = make()
    assert admission.enter(50).state == "running"
    assert admission.enter(1).state == "waiting"


def test_nothing_is_so_light_that_it_takes_no_slot() -> None:
    admission, _ = make()
    assert [admission.enter(0).state for _ in range(4)] == ["running"] * 3 + ["waiting"]


def test_the_peak_stays_when_requests_have_left() -> None:
    admission, _ = make()
    for ticket in [admission.enter(1) for _ in range(2)]:
        admission.leave(ticket)
    admission.enter(1)
    assert admission.peak == 2


def test_leaving_twice_frees_one_slot() -> None:
    admission, _ = make()
    ticket = admission.enter(1)
    admission.leave(ticket)
    admission.leave(ticket)
    assert (admission.running, admission.load) == (0, 0)


def test_leaving_the_line_lets_the_next_one_pass() -> None:
    admission, _ = make()
    running = admission.enter(2)
    heavy, light = admission.enter(3), admission.enter(1)
    admission.leave(heavy)
    assert (running.state, light.state) == ("running", "running")


async def test_waiting_ends_with_the_turn() -> None:
    admission, _ = make(limit=1)
    first, second = admission.enter(1), admission.enter(1)
    waiting = asyncio.create_task(admission.wait(second, 5))
    await asyncio.sleep(0)
    admission.leave(first)
    async with asyncio.timeout(1):
        await waiting
    assert second.state == "running"


async def test_a_turn_that_comes_together_with_the_deadline_counts() -> None:
    admission, _ = make(limit=1)
    first, second = admission.enter(1), admission.enter(1)
    waiting = asyncio.create_task(admission.wait(second, 0.01))
    await asyncio.sleep(0)
    left: list[Ticket] = []

    def leave() -> None:
        admission.leave(first)
        left.append(first)

    asyncio.get_running_loop().call_later(0.011, leave)
    time.sleep(0.05)  # noqa: ASYNC251 - so that both are due in the same turn of the loop
    await waiting
    assert (second.state, left) == ("running", [first])


async def test_waiting_ends_at_the_deadline() -> None:
    admission, _ = make(limit=1)
    admission.enter(1)
    second = admission.enter(1)
    with pytest.raises(QueueTimeoutError):
        await admission.wait(second, 0.01)
    admission.leave(second)
    assert admission.waiting == 0


async def test_the_loop_does_other_work_between_the_starts_of_two_turns() -> None:
    admission, _ = make(limit=10)
    ticket = admission.enter(1)
    events: list[str] = []

    async def run() -> None:
        async with admission.turn(ticket):
            events.append("start")

    async def others() -> None:
        while events.count("start") < 10:
            events.append("other")
            await asyncio.sleep(0)

    async with asyncio.timeout(1):
        await asyncio.gather(others(), *(run() for _ in range(10)))
    assert ("start", "start") not in itertools.pairwise(events)


def test_retry_after_is_the_line_over_the_rate() -> None:
    admission, clock = make(limit=2)
    for _ in range(200):
        ticket = admission.enter(1)
        clock.now += 4.0
        admission.leave(ticket, generated=True)
    for _ in range(9):
        admission.enter(1)
    assert admission.completions_per_second() == pytest.approx(0.5)
    assert admission.waiting == 7
    assert admission.retry_after() == 16  # (7 + 1) / 0.5, and the jitter in its middle


@pytest.mark.parametrize(("seconds", "expected"), [(0.001, 1), (1000.0, 30)])
def test_retry_after_stays_between_one_and_thirty_seconds(seconds: float, expected: int) -> None:
    admission, clock = make(limit=1)
    ticket = admission.enter(1)
    clock.now += seconds
    admission.leave(ticket, generated=True)
    admission.enter(1)
    admission.enter(1)
    assert admission.retry_after() == expected


def test_the_rate_is_that_of_slots_while_they_run() -> None:
    admission, clock = make(limit=4)
    first, second = admission.enter(4), admission.enter(2)
    clock.now += 3
    admission.leave(first, generated=True)  # 4 slots for 3 s: 12 s of one slot
    assert admission.completions_per_second() == pytest.approx(4 / 12)
    clock.now += 6
    admission.leave(second, generated=True)  # its 3 s in the line do not count: 2 slots for 6 s
    assert admission.completions_per_second() == pytest.approx(4 / 12)


def test_one_slow_request_hardly_moves_the_rate() -> None:
    admission, clock = make(limit=1)
    for seconds in (1, 11):
        ticket = admission.enter(1)
        clock.now += seconds
        admission.leave(ticket, generated=True)
    assert admission.completions_per_second() == pytest.approx(1 / 2)


def test_clients_get_different_times() -> None:
    jitter = iter((0.0, 1.0))
    admission = Admission(1, 10, clock=Clock(), jitter=lambda: next(jitter))
    for _ in range(8):
        admission.enter(1)
    # 8 requests of 2 s each, 25 % less or more
    assert [admission.retry_after() for _ in range(2)] == [12, 20]


def test_the_limits_cannot_be_taken_away() -> None:
    admission, _ = make()
    admission.resize(0, -1)
    assert (admission.limit, admission.queue_limit) == (1, 0)
    assert admission.enter(1).state == "running"


def test_a_higher_limit_lets_waiting_requests_run() -> None:
    admission, _ = make(limit=1)
    tickets = [admission.enter(1) for _ in range(4)]
    admission.resize(3, 10)
    assert [ticket.state for ticket in tickets] == ["running", "running", "running", "waiting"]


def test_a_lower_limit_lets_the_heaviest_waiting_request_still_run() -> None:
    admission, _ = make(limit=4)
    running, heavy = admission.enter(4), admission.enter(4)
    admission.resize(2, 10)
    admission.leave(running)
    assert heavy.state == "running"


@given(
    seqs=st.integers(1, 1024),
    cache=st.integers(0, 10**7),
    prompt=st.integers(0, 10**5),
    rate=st.floats(0, 1e4),
)
def test_auto_stays_within_its_bounds(seqs: int, cache: int, prompt: int, rate: float) -> None:
    auto = AutoLimits(seqs, cache, prompt, 512, rate, 30.0)
    running = auto.running()
    assert 1 <= running <= seqs
    assert cache == 0 or running == 1 or running * (prompt + 512) <= cache
    assert 10 <= auto.waiting(running) <= max(10, 4 * running)


def test_auto_runs_as_many_as_the_cache_holds() -> None:
    auto = AutoLimits(256, 65536, 512, 512, 2.0, 30.0)
    assert auto.running() == 64
    assert auto.waiting(64) == 60


async def _turns_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Holder:
    """A request and its turns, each of which is a task that ends when `end` is set."""

    def __init__(self, admission: Admission, ticket: Ticket) -> None:
        self.admission = admission
        self.ticket = ticket
        self.tasks: list[asyncio.Task[None]] = []
        self.begun: list[asyncio.Event] = []

    async def turn(self) -> None:
        async with self.admission.turn(self.ticket):
            end = asyncio.Event()
            self.begun.append(end)
            try:
                await end.wait()
            finally:
                self.begun.remove(end)

    @property
    def waiting(self) -> int:
        """The turns that have no slot yet."""
        return len(self.tasks) - len(self.begun)


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of arrivals, turns, departures, cancellations and changes of the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.admission = Admission(LIMIT, QUEUE, clock=self.clock)
        self.inside: list[Holder] = []
        self.peak_limit = self.limit = LIMIT

    def teardown(self) -> None:
        for holder in list(self.inside):
            self._leave(holder)
        assert (self.admission.load, self.admission.running, self.admission.waiting) == (0, 0, 0)
        self.loop.close()

    @rule(weight=st.integers(1, 6))
    def arrive(self, weight: int) -> None:
        full = self.admission.waiting >= QUEUE
        try:
            self.inside.append(Holder(self.admission, self.admission.enter(weight)))
        except QueueFullError:
            assert full, "refused although the line had room"

    @precondition(lambda self: self._granted())
    @rule(data=st.data(), turns=st.integers(1, 5))
    def take_turns(self, data: st.DataObject, turns: int) -> None:
        holder = data.draw(st.sampled_from(self._granted()))
        holder.tasks += [self.loop.create_task(holder.turn()) for _ in range(turns)]
        self._settle()

    @precondition(lambda self: any(holder.begun for holder in self.inside))
    @rule(data=st.data(), seconds=st.floats(0, 10))
    def end_a_turn(self, data: st.DataObject, seconds: float) -> None:
        self.clock.now += seconds
        holder = data.draw(st.sampled_from([holder for holder in self.inside if holder.begun]))
        line = list(self.admission._line)
        data.draw(st.sampled_from(holder.begun)).set()
        before = self.admission.load
        self._settle()
        if line and before - holder.ticket.weight + line[0].weight <= self.limit:
            assert line[0].state == "running", "the head of the line waited for more than one turn"

    @precondition(lambda self: any(holder.tasks for holder in self.inside))
    @rule(data=st.data())
    def cancel_a_turn(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from([holder for holder in self.inside if holder.tasks]))
        data.draw(st.sampled_from(holder.tasks)).cancel()
        if data.draw(st.booleans()):
            # A grant and a cancellation in the same turn of the loop.
            self.admission.resize(self.limit, QUEUE)
        self._settle()

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), seconds=st.floats(0, 10), generated=st.booleans())
    def leave(self, data: st.DataObject, seconds: float, generated: bool) -> None:
        self.clock.now += seconds
        self._leave(data.draw(st.sampled_from(self.inside)), generated=generated)

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        self.limit = limit
        self.peak_limit = max(limit, self.peak_limit)
        self.admission.resize(limit, QUEUE)
        self._settle()

    @invariant()
    def the_limit_holds(self) -> None:
        assert self.admission.load <= self.peak_limit
        held = [turn.weight for holder in self.inside for turn in holder.ticket.turns]
        assert self.admission.load == sum(held)

    @invariant()
    def the_peak_counts_requests_with_slots(self) -> None:
        assert sum(bool(holder.ticket.turns) for holder in self.inside) <= self.admission.peak <= self.peak_limit

    @invariant()
    def nothing_is_lost(self) -> None:
        states = [holder.ticket.state for holder in self.inside]
        assert self.admission.running == states.count("running")
        assert self.admission.running + self.admission.waiting == len(self.inside)
        assert self.admission.waiting == sum(
            holder.ticket.state == "waiting" and (holder.waiting > 0 or holder.ticket.granted is None)
            for holder in self.inside
        )
        for holder in self.inside:
            assert len(holder.ticket.turns) == len(holder.begun) + len(holder.ticket.unclaimed)

    @invariant()
    def newcomers_are_served_in_their_order(self) -> None:
        granted = [holder.ticket.granted is not None for holder in self.inside]
        assert True not in itertools.dropwhile(lambda had: had, granted)

    @invariant()
    def nobody_waits_without_need(self) -> None:
        wanting = [holder.ticket for holder in self.inside if holder.waiting or holder.ticket.granted is None]
        if wanting:
            assert self.admission.load + min(ticket.weight for ticket in wanting) > self.limit or any(
                self.admission.load + ticket.weight > self.limit for ticket in wanting
            )

    def _granted(self) -> list[Holder]:
        return [holder for holder in self.inside if holder.ticket.granted is not None]

    def _leave(self, holder: Holder, *, generated: bool = False) -> None:
        self.inside.remove(holder)
        self.admission.leave(holder.ticket, generated=generated)
        for task in holder.tasks:
            task.cancel()
        if holder.tasks:
            self.loop.run_until_complete(_turns_of_the_loop(3))
        self._settle()

    def _settle(self) -> None:
        if tasks := sum(len(holder.tasks) for holder in self.inside):
            # One turn starts in each iteration of the loop.
            self.loop.run_until_complete(_turns_of_the_loop(3 + 2 * tasks))
        for holder in self.inside:
            holder.tasks = [task for task in holder.tasks if not task.done()]


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=30)  # each example has a loop of its own


async def _hold(admission: Admission, ticket: Ticket, order: list[str], name: str, end: asyncio.Event) -> None:
    async with admission.turn(ticket):
        order.append(name)
        await end.wait()


async def test_a_heavy_request_leaves_the_next_slot_to_others() -> None:
    admission, _ = make(limit=2)
    heavy = admission.enter(1)
    order: list[str] = []
    ends = [asyncio.Event() for _ in range(5)]
    turns = [asyncio.create_task(_hold(admission, heavy, order, f"heavy {n}", end)) for n, end in enumerate(ends)]
    await asyncio.sleep(0)
    assert (admission.load, admission.running, admission.waiting) == (2, 1, 0)
    small, smaller = admission.enter(1), admission.enter(1)
    assert admission.waiting == 2
    ends[0].set()
    await asyncio.sleep(0.01)
    assert (small.state, smaller.state) == ("running", "waiting")
    ends[1].set()
    await asyncio.sleep(0.01)
    # The heavy request has no slot left: it is behind the one that has waited already.
    assert (smaller.state, heavy.state, admission.waiting) == ("running", "waiting", 1)
    admission.leave(small)
    await asyncio.sleep(0.01)
    assert order == ["heavy 0", "heavy 1", "heavy 2"]
    for end in ends:
        end.set()
    admission.leave(smaller)
    await asyncio.gather(*turns)
    assert admission.load == 0


@pytest.mark.parametrize("generated", [True, False])
def test_only_an_answer_of_the_model_tells_how_long_others_take(generated: bool) -> None:
    admission, clock = make(limit=1)
    for _ in range(50):
        ticket = admission.enter(1)
        clock.now += 0.001
        admission.leave(ticket, generated=generated)
    assert admission.completions_per_second() == pytest.approx(1000 if generated else 0.5)


async def test_a_turn_that_fails_does_not_tell_how_long_others_take() -> None:
    admission, clock = make(limit=1)
    ticket = admission.enter(1)

    async def fail() -> None:
        async with admission.turn(ticket):
            clock.now += 0.001
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await fail()
    assert admission.completions_per_second() == 0.5


def test_running_requests_that_take_longer_than_the_average_count() -> None:
    admission, clock = make(limit=1)
    ticket = admission.enter(1)
    clock.now += 1
    admission.leave(ticket, generated=True)
    admission.enter(1)
    clock.now += 20
    assert admission.completions_per_second() == pytest.approx(1 / 20)
