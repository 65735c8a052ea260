"""Models that are not made for their task; no engine starts."""

# ruff: noqa: PLC0415 - vLLM takes seconds to import: only when these tests run

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("vllm_without_side_effects")]


def parts(classes: int, *, model_does: str | None) -> Any:
    """What `pooling_apis` asks before it builds anything: the model's configuration."""
    config = SimpleNamespace(
        hf_config=SimpleNamespace(num_labels=classes),
        get_pooling_task=lambda tasks: model_does if model_does in tasks else None,
    )
    return SimpleNamespace(llm=SimpleNamespace(model_config=config))


@pytest.mark.parametrize(
    ("task", "model_does", "classes", "told"),
    [
        ("embed", "classify", 10, "classify with 10 class(es)"),
        ("rerank", "embed", 2, "embed"),
        ("rerank", "classify", 2, "classify with 2 class(es)"),
        ("classify", "embed", 2, "embed"),
        ("classify", None, 2, "to generate"),
    ],
)
def test_a_model_that_is_not_made_for_the_task_is_refused(
    task: Any, model_does: str | None, classes: int, told: str
) -> None:
    from qwen_server.engine.base import EngineError
    from qwen_server.engine.vllm.pooling_api import pooling_apis

    tasks = () if model_does is None else (model_does,)
    with pytest.raises(EngineError) as caught:
        pooling_apis(parts(classes, model_does=model_does), tasks, task)
    assert str(caught.value) == f"--task={task}: this model cannot do it; what it is made for is: {told}"


class Tokenizer:
    """Knows some words and, as that of Qwen3 does, has None for others."""

    def __init__(self, words: tuple[str, ...], unknown: int | None) -> None:
        self.words, self.unk_token_id = words, unknown

    def convert_tokens_to_ids(self, text: str) -> int | None:
        return self.words.index(text) + 1 if text in self.words else self.unk_token_id


@pytest.mark.parametrize(
    ("words", "unknown", "missing"),
    [(("yes",), None, "no"), ((), 0, "no and yes"), (("no",), 0, "yes"), (("no", "yes"), 0, None)],
)
def test_a_reranker_has_tokens_for_its_answers(
    words: tuple[str, ...], unknown: int | None, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_server.engine.base import EngineError
    from qwen_server.engine.vllm import build

    monkeypatch.setattr(build, "cached_tokenizer_from_config", lambda _: Tokenizer(words, unknown))
    arguments: Any = SimpleNamespace(hf_overrides=None)
    config: Any = SimpleNamespace(hf_config=SimpleNamespace(architectures=["Qwen3ForCausalLM"]))
    if missing is None:
        build.read_as_reranker(arguments, config)
        assert arguments.hf_overrides["classifier_from_token"] == ["no", "yes"]
        return
    with pytest.raises(EngineError, match=f"^--task=rerank: this model cannot do it; .* no token for {missing}, by"):
        build.read_as_reranker(arguments, config)
    assert arguments.hf_overrides is None
