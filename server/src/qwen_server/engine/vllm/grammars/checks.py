"""Which grammars are checked when, and what the checks have found.

A grammar is the set of fields of vLLM's StructuredOutputsParams. A verdict is kept, so that a
repeated grammar costs nothing. Requests without a grammar never come here.

Nearly all grammars compile in milliseconds. One that does not is stopped and starts over in another
queue, so that slow grammars do not delay the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from qwen_server.engine.base import BusyError, InvalidRequestError
from qwen_server.engine.vllm.grammars.fork_server import ForkServerError, JobDiedError, JobTimeoutError

_MOST_WAITING: Final = 64
_MOST_SLOW: Final = 8
_LOOK_SECONDS: Final = 0.5
# The engine core compiles the same grammar again, with many threads. So the queue of slow grammars
# rests for this multiple of the time that the last one took, and the core has time for its work.
_REST: Final = 3
# A job that had less of its time than this has waited for a busy machine.
_OWN_SHARE: Final = 0.3
# The core caches 512 MiB of compiled grammars. What is remembered here is then still there.
_MEMORY: Final = 256 << 20
_VERDICT_BYTES: Final = 1024


class Jobs(Protocol):
    """Where the checks run: the fork server."""

    async def run(self, job: bytes, seconds: float) -> bytes:
        """See ForkServer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fields` of a grammar that is fit to run, rewritten as the engine core needs them.

    Or `refused`, the text for the client. `size` is what it takes to remember, in bytes.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    backend: str = ""
    refused: str | None = None
    size: int = _VERDICT_BYTES


@dataclass(slots=True)
class _Shared:
    """A check that several requests may wait for."""

    task: asyncio.Task[Verdict]
    waiting: int = 0


@dataclass(slots=True)
class _Turn:
    """A turn of a check. It rests for this multiple of the time that the check took."""

    rest: float = 0.0


class GrammarChecks:
    """Checks grammars, `at_a_time` of them in each queue, each for at most `seconds`.

    A check waits for its turn for at most `patience` seconds. If all who wait for a check have
    left, it ends.
    """

    def __init__(self, jobs: Jobs, *, seconds: float, patience: float, at_a_time: int) -> None:
        self._jobs = jobs
        self._seconds = seconds
        self._patience = patience
        self._looks = asyncio.Semaphore(at_a_time)
        self._turns = asyncio.Semaphore(at_a_time)
        self._slow = 0
        self._running: dict[bytes, _Shared] = {}
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._remembered = 0

    async def check(self, grammar: Mapping[str, Any]) -> Verdict:
        """The verdict on `grammar`. Raises InvalidRequestError and BusyError."""
        job = json.dumps(grammar, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
        key = hashlib.sha256(job).digest()
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = await self._shared(key, job)
        else:
            self._verdicts.move_to_end(key)
        if verdict.refused is not None:
            raise InvalidRequestError(verdict.refused, param="response_format")
        return verdict

    async def _shared(self, key: bytes, job: bytes) -> Verdict:
        shared = self._running.get(key)
        if shared is None:
            if len(self._running) >= _MOST_WAITING:
                raise BusyError("too many grammars wait for their check")
            shared = self._running[key] = _Shared(asyncio.create_task(self._check(key, job), name="grammar"))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                shared.task.cancel()  # has no effect on one that is done
                if self._running.get(key) is shared:
                    del self._running[key]

    async def _check(self, key: bytes, job: bytes) -> Verdict:
        try:
            verdict = await self._first_look(job) or await self._slowly(job)
        except JobDiedError:
            verdict = Verdict(refused="the grammar takes too much memory to compile; make it simpler")
        except ForkServerError as error:
            raise BusyError(str(error)) from error
        self._remember(key, verdict)
        return verdict

    async def _first_look(self, job: bytes) -> Verdict | None:
        """The verdict on a grammar that compiles fast. None for any other."""
        async with self._turn(self._looks):
            with contextlib.suppress(JobTimeoutError):
                return _verdict(job, await self._jobs.run(job, min(_LOOK_SECONDS, self._seconds)))
            return None

    async def _slowly(self, job: bytes) -> Verdict:
        if self._slow >= _MOST_SLOW:
            raise BusyError("too many slow grammars wait for their check")
        self._slow += 1
        try:
            async with self._turn(self._turns) as turn:
                verdict = _verdict(job, await self._jobs.run(job, self._seconds))
                if verdict.refused is None:
                    turn.rest = _REST
                return verdict
        except JobTimeoutError as error:
            if error.used < _OWN_SHARE * self._seconds:
                raise BusyError("the machine is too busy to check the grammar") from error
            return Verdict(refused=f"the grammar takes longer than {self._seconds:g} s to compile; make it simpler")
        finally:
            self._slow -= 1

    @contextlib.asynccontextmanager
    async def _turn(self, turns: asyncio.Semaphore) -> AsyncIterator[_Turn]:
        """Waits for a turn. Its end comes later if it is to rest."""
        try:
            async with asyncio.timeout(self._patience):
                await turns.acquire()
        except TimeoutError:
            raise BusyError("the check of a grammar had no turn in time") from None
        begun = time.monotonic()
        turn = _Turn()
        try:
            yield turn
        finally:
            asyncio.get_running_loop().call_later(turn.rest * (time.monotonic() - begun), turns.release)

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        self._verdicts[key] = verdict
        self._remembered += verdict.size
        while self._remembered > _MEMORY:
            self._remembered -= self._verdicts.popitem(last=False)[1].size


def _verdict(job: bytes, answer: bytes) -> Verdict:
    result = json.loads(answer)
    if "refused" in result:
        return Verdict(refused=str(result["refused"]))
    return Verdict(result["checked"], result["backend"], size=_VERDICT_BYTES + 2 * len(job) + result["bytes"])
