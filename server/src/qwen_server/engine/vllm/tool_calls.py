"""vLLM's parsers of tool calls, but a streamed answer equals one that is not streamed.

vLLM streams a call while the model writes it. If the call is cut, its streamed answer has half a
call and another finish reason than the whole answer, or text is missing. `CallSplitter` explains
what is passed on instead.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaFunctionCall, DeltaMessage, DeltaToolCall, FunctionCall
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionNamedToolChoiceParam, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.outputs import RequestOutput
from vllm.parser import Parser
from vllm.parser.abstract_parser import DelegatingParser
from vllm.parser.qwen3 import Qwen3Parser
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser

from qwen_server.engine.vllm.call_splitter import CallSplitter

_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_THOUGHT_END = "</think>"


def whole_calls(parser: type[Parser] | None) -> type[Parser] | None:
    """The parser class that passes on whole calls, for the formats of Qwen's models.

    Any other parser stays as it is.
    """
    if parser is None or not issubclass(parser, DelegatingParser) or parser.tool_parser_cls is None:
        return parser
    if _is_xml(parser.tool_parser_cls) or issubclass(parser.tool_parser_cls, Hermes2ProToolParser):
        return type("WholeCalls", (_WholeCalls, parser), {})
    return parser


def _is_xml(tool_parser: type[Any]) -> bool:
    """Whether the arguments of a call are XML, as those of Qwen3-Coder and its successors are."""
    engine: Any = getattr(tool_parser, "_parser_engine_cls", object)
    return issubclass(engine, Qwen3Parser) and engine.TOOL_START == _CALL


class _WholeCalls(DelegatingParser):
    """One parser reads one answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._splitter: CallSplitter[FunctionCall] | None = None
        self._streamed_calls = 0

    def _extract_tool_calls(
        self, content: str | None, request: Any, enable_auto_tools: bool = False
    ) -> tuple[list[FunctionCall] | None, str | None]:
        """The calls and the text of a complete answer."""
        if content is None or not enable_auto_tools or not self._expects_marks(request):
            found: tuple[list[FunctionCall] | None, str | None] = super()._extract_tool_calls(
                content, request, enable_auto_tools
            )
            return found
        splitter = self._new_splitter(request)
        text, calls = splitter.feed(content)
        rest, last = splitter.finish()
        calls += last
        return calls or None, text + rest or (None if calls else content)

    def _extract_tool_calls_streaming(self, *arguments: Any, **options: Any) -> tuple[DeltaMessage | None, bool]:
        """The calls and the text that are complete with the next piece of the answer."""
        request = options["request"]
        if not self._expects_marks(request):
            found: tuple[DeltaMessage | None, bool] = super()._extract_tool_calls_streaming(*arguments, **options)
            return found
        if self._splitter is None:
            self._splitter = self._new_splitter(request)
        return self._delta(*self._splitter.feed(options["delta_text"])), False

    def finalize_generation(self, delta_message: DeltaMessage | None, request: Any, state: Any) -> DeltaMessage | None:
        """Adds what was held until the end of the answer."""
        if self._splitter is None:
            final: DeltaMessage | None = super().finalize_generation(delta_message, request, state)
            return final
        rest = self._delta(*self._splitter.finish())
        if rest is None or delta_message is None:
            return rest or delta_message
        if rest.content:
            delta_message.content = (delta_message.content or "") + rest.content
        if rest.tool_calls:
            delta_message.tool_calls = [*delta_message.tool_calls, *rest.tool_calls]
        return delta_message

    def _flush_engine_parsers(self, delta_message: DeltaMessage | None) -> DeltaMessage | None:
        """The tool parser holds nothing back, because the splitter feeds it whole calls."""
        if self._splitter is not None:
            return delta_message
        flushed: DeltaMessage | None = super()._flush_engine_parsers(delta_message)
        return flushed

    def _expects_marks(self, request: Any) -> bool:
        """Whether calls have the format of the model, and not the one of a JSON grammar."""
        choice = request.tool_choice
        return choice != "none" and (choice in (None, "auto") or not self._tool_parser.supports_required_and_named)

    def _new_splitter(self, request: Any) -> CallSplitter[FunctionCall]:
        is_xml = _is_xml(type(self._tool_parser))

        def read(text: str) -> list[FunctionCall]:
            if not is_xml and not _holds_json_call(text):
                return []  # vLLM would log a traceback
            calls = self.extract_tool_calls(text, request).tool_calls
            return [FunctionCall(id=call.id, **call.function.model_dump()) for call in calls]

        marks = {_CALL: _CALL_END}
        if not is_xml:
            return CallSplitter(marks, (), read, _holds_json_call)
        # Models of this format sometimes leave out the outer mark, and end a thought twice.
        dropped = (_THOUGHT_END,) if self._reasoning_parser is not None else ()
        return CallSplitter(marks | {_FUNCTION: _FUNCTION_END}, dropped, read, _ends_function)

    def _delta(self, text: str, calls: list[FunctionCall]) -> DeltaMessage | None:
        fields: dict[str, Any] = {"content": text} if text else {}
        if calls:
            first = self._streamed_calls
            self._streamed_calls += len(calls)
            fields["tool_calls"] = [_call_delta(first + index, call) for index, call in enumerate(calls)]
        return DeltaMessage(**fields) if fields else None


def _call_delta(index: int, call: FunctionCall) -> DeltaToolCall:
    function = DeltaFunctionCall(name=call.name, arguments=call.arguments)
    return DeltaToolCall(index=index, id=call.id or make_tool_call_id(), type="function", function=function)


def _holds_json_call(text: str) -> bool:
    body = text.removeprefix(_CALL).removesuffix(_CALL_END)
    try:
        call = json.loads(body)
    except ValueError:
        return False
    return isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call


def _ends_function(text: str) -> bool:
    return text.rfind(_FUNCTION_END) > text.rfind(_FUNCTION)


class WholeCallsChat(OpenAIServingChat):
    """vLLM's serving object for chats, with whole calls and the finish reasons of its streams."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser_cls: type[Parser] | None = whole_calls(self.parser_cls)

    async def chat_completion_full_generator(
        self, request: Any, result_generator: AsyncIterator[RequestOutput], *arguments: Any, **options: Any
    ) -> Any:
        last: RequestOutput | None = None

        async def noted() -> AsyncGenerator[RequestOutput, None]:
            nonlocal last
            async for last in result_generator:
                yield last

        answer = await super().chat_completion_full_generator(request, noted(), *arguments, **options)
        if isinstance(answer, ChatCompletionResponse) and last is not None:
            named = isinstance(request.tool_choice, ChatCompletionNamedToolChoiceParam)
            for choice, output in zip(answer.choices, last.outputs, strict=True):
                reason = output.finish_reason or "stop"
                calls = bool(choice.message.tool_calls) and not named
                choice.finish_reason = "tool_calls" if calls and reason == "stop" else reason
        return answer
