"""Checks a body against its declaration. The first mistake becomes an error naming its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from qwen_server.api.bodies import chat, completion, messages, pooling, responses, sampling, tokenization
from qwen_server.api.bodies.body import Body
from qwen_server.api.bodies.common import TAG
from qwen_server.api.bodies.grammars import GrammarBounds, grammars_of
from qwen_server.api.bodies.limits import Limits, check_bounds
from qwen_server.api.bodies.unsupported import check_unknown, fields_of_others
from qwen_server.config.settings import Settings
from qwen_server.engine.base import Adapter, Kind
from qwen_server.http.body import parse_object
from qwen_server.http.error_bodies import HttpError, invalid, model_not_found

_GENERATING: Final[tuple[Kind, ...]] = ("chat", "completion", "responses", "messages")
_POOLING: Final[tuple[Kind, ...]] = ("embeddings", "pooling", "rerank", "score", "classify")

_MOST_OF_A_NAME: Final = 64  # characters, in the place of an error

# The errors of pydantic that a declaration can cause, in the API's words.
_TEXTS: Final = {
    "missing": "is required",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "dict_type": "must be an object",
    "list_type": "must be an array",
    "none_required": "must be null",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
}

_GREEDY: Final = "n must be 1 when temperature is 0: the answers of greedy sampling would all be the same"


@dataclass(frozen=True, slots=True)
class _Declared:
    """One kind of body: its declaration, its constructor, and the fields that have an effect."""

    adapter: TypeAdapter[Any]
    names: frozenset[str]
    make: Callable[[dict[str, Any], int], Body]
    effective: frozenset[str]


def _declared(
    declaration: Any, make: Callable[[dict[str, Any], int], Body], without_effect: frozenset[str] = frozenset()
) -> _Declared:
    names = frozenset(declaration.__annotations__)
    return _Declared(TypeAdapter(declaration), names, make, names - without_effect)


_PLAIN: Final = pooling.WITHOUT_EFFECT


def _pooled(kind: Kind, declaration: Any) -> _Declared:
    return _declared(declaration, lambda fields, _: pooling.pooled(kind, fields), _PLAIN)


# The kinds with more than one declaration, and what chooses among them.
_SEVERAL: Final[Mapping[Kind, tuple[Callable[[Mapping[str, Any]], Any], Mapping[Any, _Declared]]]] = {
    "tokenize": (
        tokenization.which,
        {
            tokenization.TokenizeText: _declared(tokenization.TokenizeText, tokenization.tokenize),
            tokenization.TokenizeChat: _declared(tokenization.TokenizeChat, tokenization.tokenize),
        },
    ),
    "score": (
        pooling.which_score,
        {
            pooling.ScoreDocuments: _declared(pooling.ScoreDocuments, pooling.score, _PLAIN),
            pooling.ScoreTexts: _declared(pooling.ScoreTexts, pooling.score, _PLAIN),
        },
    ),
}
_KINDS: Final[Mapping[Kind, _Declared]] = {
    "chat": _declared(chat.ChatRequest, chat.chat, sampling.WITHOUT_EFFECT),
    "completion": _declared(completion.CompletionRequest, completion.completion, sampling.WITHOUT_EFFECT),
    "responses": _declared(responses.ResponsesRequest, responses.response, responses.WITHOUT_EFFECT),
    "messages": _declared(messages.MessagesRequest, messages.message, messages.WITHOUT_EFFECT),
    "count_tokens": _declared(messages.CountTokensRequest, messages.count_tokens),
    "detokenize": _declared(tokenization.DetokenizeRequest, tokenization.detokenize),
    "embeddings": _pooled("embeddings", pooling.EmbeddingsRequest),
    "pooling": _pooled("pooling", pooling.PoolingRequest),
    "rerank": _declared(pooling.RerankRequest, pooling.rerank, _PLAIN),
    "classify": _pooled("classify", pooling.ClassifyRequest),
}


def _names_of(kind: Kind) -> frozenset[str]:
    return next(iter(_SEVERAL[kind][1].values())).names if kind in _SEVERAL else _KINDS[kind].names


# The fields that would be lost: an API that asks the model lacks them, another one has them.
_ELSEWHERE: Final[Mapping[Kind, frozenset[str]]] = {
    kind: fields_of_others(_KINDS[kind].names, [_KINDS[other].effective for other in _GENERATING])
    for kind in _GENERATING
} | {
    kind: fields_of_others(
        _names_of(kind), [_KINDS[other].effective for other in (*_GENERATING, "embeddings", "rerank")]
    )
    for kind in _POOLING
}

# What the API's description calls them.
DECLARATIONS: Final[Mapping[str, Any]] = {
    "ChatRequest": chat.ChatRequest,
    "CompletionRequest": completion.CompletionRequest,
    "ResponsesRequest": responses.ResponsesRequest,
    "MessagesRequest": messages.MessagesRequest,
    "CountTokensRequest": messages.CountTokensRequest,
    "TokenizeRequest": tokenization.TokenizeRequest,
    "DetokenizeRequest": tokenization.DetokenizeRequest,
    "EmbeddingsRequest": pooling.EmbeddingsRequest,
    "PoolingRequest": pooling.PoolingRequest,
    "RerankRequest": pooling.RerankRequest,
    "ScoreRequest": pooling.ScoreRequest,
    "ClassifyRequest": pooling.ClassifyRequest,
}


class Bodies:
    """Checks bodies of every kind against the declarations and the limits of `settings`.

    `find_adapter` returns the LoRA adapter of a name, and `why_missing` why there is none although
    it should be served. Any thread may call them.
    """

    def __init__(
        self,
        settings: Settings,
        find_adapter: Callable[[str], Adapter | None] = lambda _: None,
        why_missing: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._find_adapter = find_adapter
        self._why_missing = why_missing
        self._answers_to = settings.answers_to
        self._served_name = settings.served_name
        self._default_tokens = settings.default_max_tokens
        self._default_temperature = settings.default_temperature
        self._limits = Limits(settings)
        self._grammar_bounds = GrammarBounds(settings)
        self._bounds = {kind: self._limits.of(declared.names) for kind, declared in _KINDS.items()}

    def parse(self, kind: Kind, raw: bytes) -> Body:
        """The body in `raw`. Raises HttpError 400 or 404."""
        return self.check(kind, parse_object(raw))

    def check(self, kind: Kind, given: dict[str, Any]) -> Body:
        """The body of a JSON object, which stays as it is. Raises HttpError 400 or 404."""
        given = self._limits.cut(given)
        pools = kind in _POOLING
        self._limits.check_lengths(given)
        if pools:
            self._limits.check_inputs(given)
        declared = _declaration_of(kind, given)
        check_bounds(given, self._bounds.get(kind, {}))
        try:
            declared.adapter.validate_python(given)  # its result would be the same but for copies
        except ValidationError as error:
            raise _refusal(error) from None
        if not given.keys() <= declared.names:
            check_unknown(kind, given, declared.names, _ELSEWHERE.get(kind, frozenset()))
        effective = declared.effective
        fields = {name: value for name, value in given.items() if value is not None and name in effective}
        adapter = self._find_adapter(fields.get("model", self._served_name))
        if adapter is None:
            self.check_model(fields.get("model", self._served_name))
        fields["model"] = self._served_name if adapter is None else adapter.key  # the engine knows no alias
        if "temperature" in declared.names:
            fields.setdefault("temperature", self._default_temperature)
        body = declared.make(fields, self._default_tokens)
        if adapter is not None:
            body = body._replace(adapter=adapter)
        if pools:
            return body
        self._limits.check_sequences(body.prompts, body.n)
        if body.n > 1 and fields["temperature"] == 0:  # vLLM would say so, but not before its turn
            raise invalid(_GREEDY, "n")
        if grammars := grammars_of(fields):
            for param, grammar in grammars:
                self._grammar_bounds.check(param, grammar)
            return body._replace(constrained=body.generates)
        return body

    def check_model(self, name: str) -> None:
        """Raises HttpError 404 unless `name` is the model's or an alias.

        An alias that ends with * does not stand for an adapter that is missing.
        """
        if name == self._served_name:
            return
        why = self._why_missing(name)
        if why is not None or not self._answers_to(name):
            raise model_not_found(name, why)


def _declaration_of(kind: Kind, given: Mapping[str, Any]) -> _Declared:
    if kind not in _SEVERAL:
        return _KINDS[kind]
    which, declarations = _SEVERAL[kind]
    return declarations[which(given)]


def _refusal(error: ValidationError) -> HttpError:
    """The first error, as the client gets it."""
    first = error.errors(include_url=False)[0]
    param = _place(first["loc"])
    return invalid(f"{param} {_text(first)}", param)


def _place(steps: tuple[int | str, ...]) -> str:
    """The parameter's name, such as `messages[1].content`."""
    place = ""
    for step in steps:
        if isinstance(step, int):
            place += f"[{step}]"
        elif not step.startswith(TAG):
            name = step[:_MOST_OF_A_NAME]  # the client may have chosen it
            place += f".{name}" if place else name
    return place


def _text(error: ErrorDetails) -> str:
    if error["type"].endswith("_type") and error["input"] is None:
        return _TEXTS["missing"]
    text = _TEXTS.get(error["type"])
    return error["msg"] if text is None else text.format(**error.get("ctx", {}))
