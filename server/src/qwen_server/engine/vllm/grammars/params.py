"""vLLM's parameters of a grammar, and the checked ones that replace them."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from vllm.sampling_params import StructuredOutputsParams

from qwen_server.engine.vllm.grammars.checks import GrammarChecks

_FIELDS: Final = tuple(each.name for each in dataclasses.fields(StructuredOutputsParams) if each.init)


class Checked(StructuredOutputsParams):
    """A grammar that has passed the check and is rewritten for the engine core.

    vLLM need not validate it (see `patches/checked_grammars.py`).
    """


class Grammars:
    """Replaces the grammars of requests by checked ones."""

    def __init__(self, checks: GrammarChecks) -> None:
        self._checks = checks
        self._last: tuple[dict[str, Any], Checked] | None = None

    async def checked(self, params: StructuredOutputsParams) -> StructuredOutputsParams:
        """The checked `params`, which may be shared. Raises InvalidRequestError and BusyError."""
        if isinstance(params, Checked):
            return params
        fields = fields_of(params)
        # The prompts of a request have the same schema, which may take milliseconds to look up.
        if self._last is not None and _same(fields, self._last[0]):
            return self._last[1]
        verdict = await self._checks.check(fields)
        checked = checked_of(dict(verdict.fields), verdict.backend)
        self._last = fields, checked
        return checked


def _same(these: dict[str, Any], those: dict[str, Any]) -> bool:
    return these.keys() == those.keys() and all(value is those[name] for name, value in these.items())


def fields_of(params: StructuredOutputsParams) -> dict[str, Any]:
    """The fields of `params` that are set."""
    given = {name: getattr(params, name) for name in _FIELDS}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def checked_of(fields: dict[str, Any], backend: str) -> Checked:
    """The parameters for the engine core, which runs the grammar with `backend`."""
    made = Checked(**fields)
    # As vLLM's validation sets them.
    made._backend = backend  # noqa: SLF001
    made._backend_was_auto = True  # noqa: SLF001
    return made
