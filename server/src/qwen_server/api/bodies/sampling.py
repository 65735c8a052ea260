"""What the APIs have in common: how to sample, when to stop, what to return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from qwen_server.api.bodies.common import (
    MAX_ENTRIES,
    MAX_VALUES,
    Entries,
    Int31,
    Int64,
    Must,
    TokenArray,
    TokenId,
    declared,
)

# Accepted because OpenAI's SDKs send them. They have no effect here.
WITHOUT_EFFECT: Final = frozenset({"user", "metadata", "store", "service_tier", "best_of"})
# Arguments that the engine itself passes to the template.
_TEMPLATE_OWN: Final = frozenset(
    {"self", "conversation", "messages", "tools", "documents", "tokenizer", "model_config", "chat_template"}
)
_REFERENCE_WHEN_SET: Final = (
    "tools",
    "echo",
    "suffix",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "return_prompt_text",
    "reasoning_effort",
    "include_reasoning",
    "thinking_token_budget",
    "mm_processor_kwargs",
)
_MAY_NEED_REFERENCE: Final = frozenset(_REFERENCE_WHEN_SET) | {
    "prompt_logprobs",
    "top_logprobs",
    "logprobs",
    "tool_choice",
    "stream_options",
    "chat_template_kwargs",
}
IGNORED: Final = Field(description="accepted and ignored")
# vLLM compares the last tokens with every size of a pattern at each step, in the engine core.
MAX_PATTERN: Final = 128
_LEAST_COUNT: Final = 2
_STOPS: Final = frozenset({"stop", "stop_token_ids", "repetition_detection"})
REPETITION: Final = {"max_pattern_size": 20, "min_count": 4}
MAX_BAD_WORDS: Final = 128  # vLLM's own limit; it tokenizes each of them twice for each sequence
BadWord = Annotated[str, Field(min_length=1, max_length=128)]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
StopTexts = Annotated[list[StopText], Entries()]  # how many depends on the settings
ModelName = Annotated[
    str | None, Field(description="the served model or an alias; may be left out, any other name is 404")
]
TopP = Annotated[float | None, Field(gt=0, le=1)]
TopK = Int31 | None
Stream = Annotated[bool | None, Field(description="server-sent events instead of one body")]
Temperature = Annotated[float | None, Field(description="0: always the likeliest token")]
CacheSalt = Annotated[str | None, Field(description="share cached prefixes only with requests of the same salt")]


@declared
class StreamOptions(TypedDict, total=False):
    """What a stream contains besides the text."""

    include_usage: Annotated[bool | None, Field(description="one more event with the token counts")]
    continuous_usage_stats: Annotated[bool | None, Field(description="token counts in every event")]


@declared
class StructuredOutputs(TypedDict, total=False):
    """A constraint of the answer."""

    choice: Annotated[
        Annotated[list[Any], Entries(MAX_ENTRIES)] | None, Field(description="the answers to choose from")
    ]


@declared
class RepetitionDetection(TypedDict, total=False):
    """Ends an answer in which a pattern of tokens comes `min_count` times in a row."""

    max_pattern_size: Annotated[int, Field(ge=0, le=MAX_PATTERN, description="the longest pattern; 0: off")]
    min_pattern_size: Annotated[int, Field(ge=0, le=MAX_PATTERN, description="the shortest pattern; 0 means 1")]
    min_count: Annotated[int, Field(ge=0, le=MAX_VALUES, description="how often it must come; at least 2")]


def _that_can_end(given: RepetitionDetection) -> RepetitionDetection:
    """Refuses what vLLM refuses, with the names of the parameters."""
    most, least, count = given.get("max_pattern_size", 0), given.get("min_pattern_size", 0), given.get("min_count", 0)
    if least > most:
        raise PydanticCustomError("refused", "must have a min_pattern_size of at most its max_pattern_size")
    if most > 0 and count < _LEAST_COUNT:
        raise PydanticCustomError("refused", "must have a min_count of at least 2")
    return given


def _describe_arguments(schema: dict[str, Any]) -> None:
    schema |= {"additionalProperties": True, "propertyNames": {"not": {"enum": sorted(_TEMPLATE_OWN)}}}


@with_config(ConfigDict(strict=True, json_schema_extra=_describe_arguments))
class TemplateArguments(TypedDict, total=False):
    """Arguments of the chat template."""

    enable_thinking: bool | None


def _not_the_templates_own(arguments: Any) -> Any:
    if isinstance(arguments, dict) and (own := _TEMPLATE_OWN & arguments.keys()):
        text = "must not hold {name}, which the server gives to the template itself"
        raise PydanticCustomError("refused", text, {"name": min(own)})
    return arguments


TemplateKwargs = Annotated[
    Annotated[TemplateArguments, BeforeValidator(_not_the_templates_own)] | None,
    Field(description="thinking is off by default", examples=[{"enable_thinking": True}]),
]


@declared
class Decoding(TypedDict, total=False):
    """What OpenAI's APIs have in common. Unknown fields are ignored; `null` means the default."""

    model: ModelName
    top_p: TopP
    top_k: TopK
    min_p: Annotated[float | None, Field(ge=0, le=1)]
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)]
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)]
    # Below, logits overflow, and then grammars fail in the engine.
    repetition_penalty: Annotated[float | None, Field(ge=0.01, le=10)]
    seed: Annotated[Int64 | None, Field(description="the same seed and request give the same answer")]
    stop: Annotated[
        StopText | StopTexts | None,
        Must("be a string or an array of strings, each of 1 to 1024 characters", "be a string of 1 to 1024 characters"),
        Field(description="strings that end the answer"),
    ]
    stop_token_ids: Annotated[
        Annotated[list[TokenId], TokenArray(MAX_VALUES, least=0)] | None,
        Must(f"be an array of at most {MAX_VALUES} token ids", "be a token id"),
    ]
    include_stop_str_in_output: Annotated[bool | None, Field(description="keep the stop string in the answer")]
    logit_bias: Annotated[
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Entries(MAX_VALUES),
            Field(json_schema_extra={"additionalProperties": False}),
        ]
        | None,
        Must(
            f"be an object of at most {MAX_VALUES} numbers between -100 and 100 by token id",
            entry="be a number between -100 and 100",
            key="have the name of a token id",
        ),
        Field(description="added to the logits of token ids"),
    ]
    ignore_eos: Annotated[bool | None, Field(description="generate up to max_tokens")]
    stream: Stream
    structured_outputs: Annotated[
        StructuredOutputs | None,
        Field(description="vLLM's: one of json, regex, choice, grammar", examples=[{"choice": ["财经", "科技"]}]),
    ]
    skip_special_tokens: Annotated[bool | None, Field(description="leave special tokens out; true by default")]
    priority: Annotated[Int64 | None, Field(description="lower is earlier, where the engine schedules by priority")]
    cache_salt: CacheSalt


@declared
class Sampling(Decoding, total=False):
    """What chats and completions have in common."""

    max_tokens: Annotated[int | None, Field(description="最大生成token数 (the longest answer, in tokens)")]
    min_tokens: Annotated[int | None, Field(description="the shortest answer, in tokens")]
    temperature: Annotated[float | None, Field(description="温度 (0: always the likeliest token)")]
    n: Annotated[int | None, Field(description="answers to each prompt; each counts as a request in the queue")]
    allowed_token_ids: Annotated[
        Annotated[list[TokenId], TokenArray()] | None,
        Must("be a non-empty array of token ids", "be a token id"),
        Field(description="the only tokens to choose from"),
    ]
    bad_words: Annotated[
        Annotated[list[BadWord], Entries(MAX_BAD_WORDS)] | None,
        Must(
            f"be an array of at most {MAX_BAD_WORDS} strings, each of 1 to 128 characters",
            "be a string of 1 to 128 characters",
        ),
        Field(description="words that the answer does not hold"),
    ]
    stream_options: Annotated[StreamOptions | None, Field(description="has an effect only with stream")]
    response_format: Annotated[
        dict[str, Any] | None,
        Field(
            description="json_object or json_schema, as in OpenAI's API",
            examples=[{"type": "json_schema", "json_schema": {"name": "label", "schema": {"type": "object"}}}],
        ),
    ]
    spaces_between_special_tokens: bool | None
    repetition_detection: Annotated[
        Annotated[RepetitionDetection, AfterValidator(_that_can_end)] | None,
        Field(description="vLLM's: end an answer that repeats itself", examples=[REPETITION]),
    ]
    add_special_tokens: Annotated[bool | None, Field(description="add the tokenizer's special tokens to the prompt")]
    truncate_prompt_tokens: Annotated[Int31 | None, Field(description="keep only so many tokens of the prompt")]
    truncation_side: Annotated[
        Literal["left", "right"] | None, Field(description="where tokens are removed; left by default")
    ]
    prompt_logprobs: Annotated[int | None, Field(ge=-1, le=20, description="log probabilities of the prompt's tokens")]
    return_token_ids: Annotated[bool | None, Field(description="return the ids of the tokens too")]
    return_tokens_as_token_ids: Annotated[bool | None, Field(description="name tokens by id in log probabilities")]
    user: Annotated[str | None, IGNORED]
    metadata: Annotated[Any, IGNORED]
    store: Annotated[Any, IGNORED]
    service_tier: Annotated[Any, IGNORED]


def drop_idle_options(fields: dict[str, Any]) -> None:
    """Removes stream options without a stream. Some clients send them with every request."""
    if not fields.get("stream"):
        fields.pop("stream_options", None)


def drop_empty_tools(fields: dict[str, Any]) -> None:
    """Removes an empty list of tools, and without tools a choice that asks for none.

    Some clients send both with every request.
    """
    if fields.get("tools"):
        return
    fields.pop("tools", None)
    choice = fields.get("tool_choice")
    if (choice.get("type") if isinstance(choice, dict) else choice) in ("auto", "none"):
        del fields["tool_choice"]


def names_stop(fields: Mapping[str, Any]) -> bool:
    """Whether the client has stops of its own."""
    return not _STOPS.isdisjoint(fields)


def needs_reference(fields: Mapping[str, Any]) -> bool:
    """Whether only vLLM's own serving code answers this: the fast path serves all else."""
    if fields.keys().isdisjoint(_MAY_NEED_REFERENCE):
        return False
    if any(fields.get(name) for name in _REFERENCE_WHEN_SET):
        return True
    # 0 and False differ: completions take `logprobs: 0` for the chosen token's own.
    if "prompt_logprobs" in fields or "top_logprobs" in fields or fields.get("logprobs", False) is not False:
        return True
    if fields.get("tool_choice", "none") != "none" or fields.get("stream_options", {}).get("continuous_usage_stats"):
        return True
    return bool(fields.get("chat_template_kwargs", {}).get("enable_thinking"))
