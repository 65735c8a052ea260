"""What output tapping relies on in vLLM, tested with vLLM's output processor; no engine starts.

Each test runs with vLLM's own loop over the outputs of a step, and with the short one.
"""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import builtin_model

if TYPE_CHECKING:
    from qwen_server.engine.vllm.patches.output_tap import TappingProcessor

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("vllm_without_side_effects")]

TEXT = "今天的新闻"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from vllm.tokenizers import get_tokenizer

    return get_tokenizer(str(builtin_model.FOLDER))


class Tap:
    """Accepts gains while `takes` is set, or fails."""

    def __init__(self, *, takes: bool = True, fails: bool = False) -> None:
        self.takes = takes
        self.fails = fails
        self.text = ""
        self.tokens = 0

    def ready(self) -> bool:
        return self.takes

    def take(self, text: str, tokens: int) -> None:
        if self.fails:
            raise OSError("the disk is full")
        self.text += text
        self.tokens += tokens


class Engine:
    """An output processor with taps and manual input. `figures` are those of the latest step."""

    def __init__(self, tokenizer: Any, loop: str = "vllm") -> None:
        from vllm.v1.engine.output_processor import OutputProcessor

        from qwen_server.engine.vllm.patches.output_tap import install
        from qwen_server.engine.vllm.patches.token_loop import loop_tokens

        llm: Any = SimpleNamespace(output_processor=OutputProcessor(tokenizer, log_stats=True))
        self.processor: TappingProcessor = install(llm)
        if loop == "short":
            loop_tokens(self.processor)
        self.figures: Any = None
        self._now = 0.0

    def add(self, name: str, tap: Tap | None = None, **params: Any) -> Any:
        """Adds a request. Returns its queue."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.output_processor import RequestOutputCollector

        kind = params.pop("output_kind", RequestOutputKind.DELTA)
        request = EngineCoreRequest(
            request_id=f"{name}-internal",
            external_req_id=name,
            prompt_token_ids=[1, 2],
            mm_features=None,
            sampling_params=SamplingParams(output_kind=kind, **params),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        queue = RequestOutputCollector(kind, request.request_id)
        if tap is not None:
            self.processor.taps[name] = tap
        self.processor.add_request(request, None, None, 0, queue)
        return queue

    def step(self, *gains: tuple[str, list[int]], reason: Any = None) -> None:
        """Runs one step of the engine, a second after the last."""
        from vllm.v1.engine import EngineCoreOutput
        from vllm.v1.metrics.stats import IterationStats

        self._now += 1.0
        self.figures = IterationStats()
        self.processor.process_outputs(
            [EngineCoreOutput(f"{name}-internal", tokens, finish_reason=reason) for name, tokens in gains],
            self._now,
            self.figures,
            "default",
        )


@pytest.fixture(params=["vllm", "short"])
def engine(request: pytest.FixtureRequest, tokenizer: Any) -> Engine:
    return Engine(tokenizer, request.param)


def test_a_tap_gets_every_gain_but_the_end(engine: Engine, tokenizer: Any) -> None:
    from vllm.v1.engine import FinishReason

    tap = Tap()
    queue = engine.add("a", tap)
    assert engine.processor.taps == {}
    ids = tokenizer.encode(TEXT)
    for token in ids[:-1]:
        engine.step(("a", [token]))
    assert queue.output is None
    engine.step(("a", ids[-1:]), reason=FinishReason.LENGTH)
    (end,) = queue.get_nowait().outputs
    assert tap.text + end.text == TEXT
    assert (tap.tokens, end.finish_reason) == (len(ids) - 1, "length")
    assert engine.processor.get_num_unfinished_requests() == 0


def test_what_a_tap_does_not_take_waits_in_the_queue_in_order(engine: Engine, tokenizer: Any) -> None:
    tap = Tap(takes=False)
    queue = engine.add("a", tap)
    ids = tokenizer.encode(TEXT)
    engine.step(("a", ids[:2]))
    tap.takes = True
    engine.step(("a", ids[2:3]))  # the queue is not empty, so the tap must wait
    first = queue.get_nowait().outputs[0]
    assert (tap.tokens, list(first.token_ids)) == (0, ids[:3])
    engine.step(("a", ids[3:]))
    assert (tap.tokens, first.text + tap.text) == (len(ids) - 3, TEXT)


def test_a_stop_string_is_held_back_from_the_tap(engine: Engine, tokenizer: Any) -> None:
    tap = Tap()
    queue = engine.add("a", tap, stop=["新闻"])
    for token in tokenizer.encode(TEXT):
        engine.step(("a", [token]))
    (end,) = queue.get_nowait().outputs
    assert tap.text + end.text == "今天的"
    assert (end.finish_reason, end.stop_reason) == ("stop", "新闻")


def test_a_failing_tap_fails_its_own_request_only(engine: Engine, tokenizer: Any) -> None:
    well = Tap()
    queue = engine.add("a", Tap(fails=True))
    engine.add("b", well)
    ids = tokenizer.encode(TEXT)
    engine.step(("a", ids), ("b", ids))
    with pytest.raises(OSError, match="disk"):
        queue.get_nowait()
    assert well.text == TEXT


def test_an_aborted_request_ends_in_its_queue(engine: Engine) -> None:
    tap = Tap()
    queue = engine.add("a", tap)
    engine.processor.abort_requests(["a"], internal=False)
    assert queue.get_nowait().outputs[0].finish_reason == "abort"
    assert engine.processor.request_states == {}


def test_answers_of_other_kinds_are_not_tapped(engine: Engine, tokenizer: Any) -> None:
    from vllm.sampling_params import RequestOutputKind

    tap = Tap()
    whole = engine.add("whole", tap, output_kind=RequestOutputKind.FINAL_ONLY)
    plain = engine.add("plain")
    ids = tokenizer.encode(TEXT)
    engine.step(("whole", ids), ("plain", ids))
    assert (tap.tokens, whole.output) == (0, None)
    assert plain.get_nowait().outputs[0].text == TEXT


async def test_a_tap_is_forgotten_with_its_request(engine: Engine) -> None:
    from qwen_server.engine.vllm.patches.output_tap import tapped

    processor = engine.processor

    async def refused() -> Any:
        await asyncio.sleep(0)
        assert set(processor.taps) == {"a"}
        raise ValueError("no room")
        yield

    with pytest.raises(ValueError, match="no room"):
        async for _ in tapped(refused(), processor, "a", Tap()):
            pass
    assert processor.taps == {}


def test_the_short_loop_leaves_the_same_state_and_figures_as_vllms(tokenizer: Any) -> None:
    """vLLM's metrics, the end of the answer and its usage come from what the loop leaves behind."""
    from qwen_server.engine.vllm.patches.token_loop import PlainState

    engines = Engine(tokenizer), Engine(tokenizer, "short")
    ids = tokenizer.encode(TEXT)
    seen: list[list[Any]] = [[], []]
    for engine, found in zip(engines, seen, strict=True):
        taps = {name: Tap() for name in "ab"}
        for name, tap in taps.items():
            engine.add(name, tap)
        found.append(isinstance(engine.processor.request_states["a-internal"], PlainState))
        # One token a step, several, none, and the rest of a step that another request shares.
        for gains in ([ids[:1]] * 2, [ids[1:3], ids[1:2]], [[], ids[2:]], [ids[3:], []]):
            engine.step(*zip("ab", gains, strict=True))
            figures = {name: value for name, value in vars(engine.figures).items() if not _is_wall_time(name)}
            states = engine.processor.request_states.values()
            found.append(figures | {"prompt_token_stats": vars(engine.figures.prompt_token_stats)})
            found.append([_left_behind(state) for state in states])
        found.append([(tap.text, tap.tokens) for tap in taps.values()])
    assert [found.pop(0) for found in seen] == [False, True]
    assert seen[1] == seen[0]
    assert seen[0][-1] == [(TEXT, len(ids))] * 2


@pytest.mark.parametrize("params", [{"stop": ["x"]}, {"logprobs": 1}, {"spaces_between_special_tokens": False}])
def test_answers_with_extras_are_the_same_from_the_short_loop(tokenizer: Any, params: dict[str, Any]) -> None:
    texts = []
    for loop in ("vllm", "short"):
        engine, tap = Engine(tokenizer, loop), Tap()
        engine.add("a", tap, **params)
        for token in tokenizer.encode(TEXT):
            engine.step(("a", [token]))
        texts.append((tap.text, tap.tokens))
    assert texts[0] == texts[1] == (TEXT, len(tokenizer.encode(TEXT)))


def _is_wall_time(name: str) -> bool:
    return name in ("iteration_timestamp", "time_to_first_tokens_iter")


def _left_behind(state: Any) -> tuple[Any, ...]:
    """What later steps and the end of the request read."""
    detokenizer, stats = state.detokenizer, state.stats
    return (
        detokenizer.output_text,
        detokenizer.token_ids,
        detokenizer.get_next_output_text(finished=False, delta=True),
        (stats.num_generation_tokens, stats.first_token_ts, stats.last_token_ts),
        state.weight_version_starts,
        state.is_prefilling,
    )
