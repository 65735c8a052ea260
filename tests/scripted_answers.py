"""The scripted engine's answers in the formats of vLLM's serving code: bodies and events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen_server.engine.base import Delta, Kind, Output

PROMPT_TOKENS = 7
_NOT_TEXT = 0xD800  # surrogates start here
POOLING: tuple[Kind, ...] = ("embeddings", "pooling", "score", "rerank", "classify")
_TEXTS = ("documents", "text_2", "input")


def prompts_of(kind: Kind, body: Mapping[str, Any]) -> tuple[list[str], int]:
    """The texts that may contain directives, and the length of the whole prompt."""
    if kind == "completion" or (kind == "tokenize" and "prompt" in body):
        prompts = _prompts_of(body["prompt"])
        return prompts, sum(map(len, prompts))
    if kind == "detokenize":
        return ["".join(chr(token) if token < _NOT_TEXT else "?" for token in body["tokens"])], len(body["tokens"])
    if kind in POOLING:
        given = body[next(name for name in _TEXTS if name in body)]
        prompts = _prompts_of(given)
        return prompts, max(map(len, prompts))
    turns = body["input"] if kind == "responses" else body["messages"]
    texts = [turns] if isinstance(turns, str) else [_text_of(turn.get("content")) for turn in turns]
    return texts[-1:], sum(map(len, texts))


def param_of(body: Mapping[str, Any]) -> str:
    """The name of the parameter with the prompt."""
    return next(name for name in ("messages", "prompt", "input", "tokens", "documents", "text_2") if name in body)


def pooled(kind: Kind, *, request_id: str, texts: int) -> dict[str, Any]:
    """The answer to texts that are not continued."""
    tokens = texts * PROMPT_TOKENS
    head = {
        "id": request_id,
        "model": "qwen-news-classifier",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    if kind == "rerank":
        ranked = {"document": {"text": "x"}, "relevance_score": 0.5}
        return head | {"results": [{"index": index} | ranked for index in range(texts)]}
    item: dict[Kind, dict[str, Any]] = {
        "embeddings": {"object": "embedding", "embedding": [0.5, -0.5]},
        "pooling": {"object": "pooling", "data": [0.5, -0.5]},
        "score": {"object": "score", "score": 0.5},
        "classify": {"label": "x", "probs": [0.5, 0.5], "num_classes": 2},
    }
    return head | {"object": "list", "created": 1, "data": [{"index": index} | item[kind] for index in range(texts)]}


def limit_of(body: Mapping[str, Any]) -> int:
    """The maximum number of tokens of the answer."""
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    return next((int(body[name]) for name in names if body.get(name)), 0)


def computed(kind: Kind, text: str, max_model_len: int) -> dict[str, Any]:
    """Answers that need no generation. A character is a token."""
    if kind == "tokenize":
        return {"count": len(text), "max_model_len": max_model_len, "tokens": list(map(ord, text)), "token_strs": None}
    if kind == "detokenize":
        return {"prompt": text}
    return {"input_tokens": len(text), "context_management": {"original_input_tokens": len(text)}}


def whole(kind: Kind, head: Mapping[str, Any], text: str, tokens: int, *, cut: bool = False) -> dict[str, Any]:
    """The body of a complete answer; `head` has its id and model."""
    if kind == "responses":
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}
        return _response(head, "incomplete" if cut else "completed", [_item(text)], usage)
    if kind == "messages":
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": tokens}
        content = [{"type": "text", "text": text}]
        return _message(head, content, usage) | {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}
    choice: dict[str, Any] = {"index": 0, "logprobs": {"content": []}, "finish_reason": "stop"}
    if kind == "completion":
        choice["text"] = text
    else:
        choice["message"] = {"role": "assistant", "content": text}
    return {**head, "created": 1, "object": _object(kind), "choices": [choice], "usage": usage}


class Events:
    """The events of one stream, in order."""

    def __init__(self, kind: Kind, head: Mapping[str, Any]) -> None:
        self._kind = kind
        self._head = head
        self._text = ""
        self._tokens = 0
        self._count = 0
        self._cut = False

    def opening(self) -> list[str]:
        """The events before the first token's text, sent together with it."""
        if self._kind == "responses":
            response = _response(self._head, "in_progress", [], None)
            place = {"item_id": "msg_1", "output_index": 0}
            part = {"type": "output_text", "text": "", "annotations": []}
            return [
                self._typed("response.created", response=response),
                self._typed("response.in_progress", response=response),
                self._typed("response.output_item.added", item=_item(None), output_index=0),
                self._typed("response.content_part.added", **place, content_index=0, part=part),
            ]
        if self._kind == "messages":
            usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": 0}
            return [
                self._typed("message_start", message=_message(self._head, [], usage)),
                self._typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            ]
        return []

    def of(self, output: Output) -> list[str]:
        """The events of one output."""
        events = []
        for delta in output.deltas:
            self._text += delta.text
            self._tokens += delta.tokens
            self._cut |= delta.finish_reason == "length"
            if self._kind == "responses":
                place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
                events.append(self._typed("response.output_text.delta", **place, delta=delta.text))
            elif self._kind == "messages":
                text = {"type": "text_delta", "text": delta.text}
                events.append(self._typed("content_block_delta", index=0, delta=text))
            else:
                events.append(_event(_chunk(self._kind, self._head, delta)))
        return events

    def closing(self) -> list[str]:
        """The events that end the stream."""
        answer = whole(self._kind, self._head, self._text, self._tokens, cut=self._cut)
        if self._kind == "responses":
            return [
                self._typed("response.output_item.done", item=_item(self._text), output_index=0),
                self._typed(f"response.{answer['status']}", response=answer),
            ]
        if self._kind == "messages":
            delta = {"stop_reason": "end_turn", "stop_sequence": None}
            return [
                self._typed("content_block_stop", index=0),
                self._typed("message_delta", delta=delta, usage=answer["usage"]),
                self._typed("message_stop"),
            ]
        return ["data: [DONE]\n\n"]

    def _typed(self, name: str, **fields: Any) -> str:
        number = {"sequence_number": self._count} if self._kind == "responses" else {}
        self._count += 1
        return f"event: {name}\n" + _event({"type": name, **fields, **number})


def _event(value: object) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _object(kind: Kind) -> str:
    return "chat.completion" if kind == "chat" else "text_completion"


def _chunk(kind: Kind, head: Mapping[str, Any], delta: Delta) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": delta.index, "finish_reason": delta.finish_reason}
    if kind == "completion":
        choice["text"] = delta.text
    else:
        choice["delta"] = {"role": "assistant", "content": delta.text}
    name = "chat.completion.chunk" if kind == "chat" else "text_completion"
    return {**head, "created": 1, "object": name, "choices": [choice]}


def _item(text: str | None) -> dict[str, Any]:
    content = [] if text is None else [{"type": "output_text", "text": text, "annotations": []}]
    status = "in_progress" if text is None else "completed"
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content}


def _response(head: Mapping[str, Any], status: str, output: list[Any], usage: Any) -> dict[str, Any]:
    fixed = {"object": "response", "created_at": 1, "parallel_tool_calls": True, "tool_choice": "none", "tools": []}
    return {**head, **fixed, "status": status, "output": output, "usage": usage}


def _message(head: Mapping[str, Any], content: list[Any], usage: Any) -> dict[str, Any]:
    return {**head, "type": "message", "role": "assistant", "content": content, "usage": usage}


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _prompts_of(prompt: Any) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return ["x" * len(prompt)]
    return [item if isinstance(item, str) else "x" * len(item) for item in prompt]
