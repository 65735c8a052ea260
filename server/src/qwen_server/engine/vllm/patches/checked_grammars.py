"""Keeps vLLM from validating grammars on the event loop.

vLLM converts a grammar up to three times a request, while it reads the body, for tools, and for
each prompt. Its conversions may take minutes. The server has checked the grammar before in a
process that can be killed, so none of them has anything to find.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vllm.entrypoints.generate.base import protocol
from vllm.parser import abstract_parser
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

from qwen_server.config.patches import Patch, absent, changed_parameters
from qwen_server.engine.vllm.grammars.params import Checked


def _missing() -> Iterator[str]:
    yield from changed_parameters(
        SamplingParams._validate_structured_outputs,  # noqa: SLF001
        "self",
        "model_config",
        "structured_outputs_config",
        "tokenizer",
    )
    yield from absent(protocol, "validate_structural_tag_payload")
    yield from changed_parameters(protocol.validate_structural_tag_payload, "payload", "parameter")
    yield from absent(abstract_parser, "_xgrammar_supports")
    yield from changed_parameters(abstract_parser._xgrammar_supports, "structured_outputs")  # noqa: SLF001


CHECKED_GRAMMARS: Final = Patch(
    name="checked-grammars",
    gains="an event loop that converts no grammar (docs/decisions/0012)",
    relies_on="the three functions of vLLM that validate a grammar, which it looks up for each request",
    missing=_missing,
)


def trust_checked_grammars() -> None:
    """Makes vLLM skip the validation of grammars that are checked, in this process."""
    validate = SamplingParams._validate_structured_outputs  # noqa: SLF001
    if validate.__module__ == __name__:
        return  # by an earlier engine of this process

    def validate_unchecked(self: SamplingParams, *arguments: Any, **options: Any) -> None:
        if not isinstance(self.structured_outputs, Checked):
            validate(self, *arguments, **options)

    SamplingParams._validate_structured_outputs = validate_unchecked  # noqa: SLF001
    protocol.validate_structural_tag_payload = _checked_later
    abstract_parser._xgrammar_supports = _may_support  # noqa: SLF001


def _checked_later(payload: Any, *, parameter: str) -> None:
    """Validates nothing: the grammar is checked before the engine gets it."""


def _may_support(structured_outputs: StructuredOutputsParams) -> bool:
    """Whether xgrammar has what a schema asks for. The rest is checked later."""
    schema = structured_outputs.json
    return not (isinstance(schema, dict) and has_xgrammar_unsupported_json_features(schema))
