"""What must be equal in the answers of both servers.

Text, finish reason, logprobs, tool calls and usage are compared.
"""

from __future__ import annotations

import difflib
import json
from typing import Any

Answer = dict[str, Any]

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_PLACES = 5  # decimals of a logprob: both servers compute in float32 and print all digits


def whole(status: int, data: bytes, *, stops: bool) -> Answer:
    """Reads an answer that is not streamed.

    With `stops` the client sent its own stop strings, and the answer names the one that matched.
    """
    if status != 200:
        return {"status": status}
    body = json.loads(data)
    choices = {}
    for choice in body["choices"]:
        message = choice.get("message") or {}
        choices[choice["index"]] = {
            "text": choice.get("text", message.get("content")) or "",
            "tool_calls": _tool_calls(message.get("tool_calls") or []),
            "logprobs": choice.get("logprobs") or None,
            "finish_reason": choice["finish_reason"],
            "stop_reason": choice.get("stop_reason") if stops else None,
            "token_ids": choice.get("token_ids"),
            "prompt_logprobs": choice.get("prompt_logprobs"),
        }
    return _answer(status, choices, body.get("usage"))


def streamed(status: int, data: bytes, *, stops: bool) -> Answer:
    """Reads a streamed answer and joins its events, wherever the text was split."""
    if status != 200:
        return {"status": status}
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line.startswith(b"data: ")]
    if not lines or lines[-1] != b"[DONE]":
        return {"status": status, "unfinished": [line.decode() for line in lines[-2:]]}
    choices: dict[int, Answer] = {}
    usage = None
    for line in lines[:-1]:
        chunk = json.loads(line)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            _gain(choices.setdefault(choice["index"], _empty()), choice, stops)
    return _answer(status, choices, usage)


def _answer(status: int, choices: dict[int, Answer], usage: dict[str, int] | None) -> Answer:
    return {"status": status, "choices": _rounded(choices), "usage": _usage(usage)}


def _empty() -> Answer:
    return {
        "text": "",
        "tool_calls": [],
        "logprobs": None,
        "finish_reason": None,
        "stop_reason": None,
        "token_ids": None,
        "prompt_logprobs": None,
    }


def _gain(into: Answer, choice: dict[str, Any], stops: bool) -> None:
    delta = choice.get("delta") or {}
    into["text"] += choice.get("text", delta.get("content")) or ""
    into["finish_reason"] = choice.get("finish_reason") or into["finish_reason"]
    if stops and choice.get("stop_reason") is not None:
        into["stop_reason"] = choice["stop_reason"]
    if choice.get("token_ids"):
        into["token_ids"] = [*(into["token_ids"] or []), *choice["token_ids"]]
    for call in delta.get("tool_calls") or ():
        while len(into["tool_calls"]) <= call["index"]:
            into["tool_calls"].append({"name": "", "arguments": ""})
        function = call.get("function") or {}
        for name in ("name", "arguments"):
            into["tool_calls"][call["index"]][name] += function.get(name) or ""
    if logprobs := choice.get("logprobs"):
        known = into["logprobs"] = into["logprobs"] or {}
        for name, values in logprobs.items():
            known[name] = [*known.get(name, []), *values] if isinstance(values, list) else values


def _tool_calls(calls: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: call["function"][name] for name in ("name", "arguments")} for call in calls]


def _usage(usage: dict[str, int] | None) -> dict[str, int] | None:
    return None if usage is None else {name: usage[name] for name in _USAGE}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _PLACES)
    if isinstance(value, dict):
        return {str(name): _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def difference(ours: Answer, theirs: Answer) -> str:
    """A unified diff from vLLM's answer to ours; empty when they are the same."""
    if ours == theirs:
        return ""
    texts = [json.dumps(answer, indent=1, ensure_ascii=False, sort_keys=True) for answer in (theirs, ours)]
    lines = difflib.unified_diff(texts[0].splitlines(), texts[1].splitlines(), "vllm", "ours", lineterm="", n=1)
    return "\n".join(lines)
