"""The examples in the OpenAPI document: those of the specification, and our own for the rest."""

from __future__ import annotations

import json
from typing import Any

from qwen_server.api.openapi import specification

CHAT_REQUEST = specification.body_of(specification.CHAT_COMMAND)
CHAT_ANSWER: dict[str, Any] = json.loads(specification.CHAT_ANSWER)
COMPLETION_REQUEST = specification.body_of(specification.COMPLETION_COMMAND)
COMPLETION_ANSWER: dict[str, Any] = json.loads(specification.COMPLETION_ANSWER)
HEALTH: dict[str, Any] = json.loads(specification.HEALTH_ANSWER)
METRICS: dict[str, Any] = json.loads(specification.METRICS_ANSWER)
METRICS["requests"] |= {"aborted": 0, "refused": 0}  # not in the specification
PROMETHEUS = specification.PROMETHEUS_ANSWER
QUEUE_FULL: dict[str, Any] = json.loads(specification.QUEUE_FULL_ANSWER)
OUT_OF_MEMORY: dict[str, Any] = json.loads(specification.OUT_OF_MEMORY_ANSWER)

MODEL: dict[str, Any] = {
    "id": "qwen-news-classifier",
    "object": "model",
    "created": 1703404800,
    "owned_by": "qwen-vllm",
    "root": "builtin:news-classifier",
    "parent": None,
    "max_model_len": 512,
}
CHAT_STREAM = """\
data: {"id":"chatcmpl-123456789","object":"chat.completion.chunk","created":1703404800,"model":"qwen-news-classifier",\
"choices":[{"index":0,"delta":{"role":"assistant","content":"这条"},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-123456789","object":"chat.completion.chunk","created":1703404800,"model":"qwen-news-classifier",\
"choices":[{"index":0,"delta":{"content":"新闻"},"logprobs":null,"finish_reason":"stop"}]}

data: [DONE]

"""
MODEL_LIST: dict[str, Any] = {"object": "list", "data": [MODEL]}
COMPLETION_STREAM = """\
data: {"id":"cmpl-123456789","object":"text_completion","created":1703404800,"model":"qwen-news-classifier",\
"choices":[{"index":0,"text":"科技","logprobs":null,"finish_reason":"stop"}]}

data: [DONE]

"""

RESPONSES_REQUEST: dict[str, Any] = {"input": "请分类这条新闻：央行宣布降息25个基点", "max_output_tokens": 100}
RESPONSES_ANSWER: dict[str, Any] = {
    "id": "resp_123456789",
    "object": "response",
    "created_at": 1703404800,
    "model": "qwen-news-classifier",
    "status": "completed",
    "output": [
        {
            "id": "msg_123456789",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "这条新闻属于【财经】类别。", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 26, "output_tokens": 10, "total_tokens": 36},
}
RESPONSES_STREAM = """\
event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_123456789","output_index":0,\
"content_index":0,"delta":"这条","logprobs":[]}

"""
MESSAGES_PROMPT: dict[str, Any] = {"messages": [{"role": "user", "content": "请分类这条新闻：央行宣布降息25个基点"}]}
MESSAGES_ANSWER: dict[str, Any] = {
    "id": "msg_123456789",
    "type": "message",
    "role": "assistant",
    "model": "qwen-news-classifier",
    "content": [{"type": "text", "text": "这条新闻属于【财经】类别。"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 26, "output_tokens": 10},
}
MESSAGES_STREAM = """\
event: content_block_delta
data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"这条"},"index":0}

"""
TOKENS: dict[str, Any] = {"tokens": [5001, 312, 87]}

EXAMPLES: dict[str, Any] = {
    "ResponsesRequest": RESPONSES_REQUEST,
    "ResponsesAnswer": RESPONSES_ANSWER,
    "ResponsesStream": RESPONSES_STREAM,
    "MessagesRequest": MESSAGES_PROMPT | {"max_tokens": 100},
    "MessagesAnswer": MESSAGES_ANSWER,
    "MessagesStream": MESSAGES_STREAM,
    "CountTokensRequest": MESSAGES_PROMPT,
    "CountTokensAnswer": {"input_tokens": 26},
    "TokenizeRequest": {"prompt": "央行宣布降息"},
    "TokenizeAnswer": {"count": 3, "max_model_len": 512} | TOKENS,
    "DetokenizeRequest": TOKENS,
    "DetokenizeAnswer": {"prompt": "央行宣布降息"},
    "ChatRequest": CHAT_REQUEST,
    "ChatAnswer": CHAT_ANSWER,
    "ChatStream": CHAT_STREAM,
    "CompletionRequest": COMPLETION_REQUEST,
    "CompletionAnswer": COMPLETION_ANSWER,
    "CompletionStream": COMPLETION_STREAM,
    "LoadAdapterRequest": {"lora_name": "news", "lora_path": "/adapters/news"},
    "UnloadAdapterRequest": {"lora_name": "news"},
    "AdapterLoaded": "Success: LoRA adapter 'news' added successfully.",
    "AdapterUnloaded": "Success: LoRA adapter 'news' removed successfully.",
    "Model": MODEL,
    "ModelList": MODEL_LIST,
    "Health": HEALTH,
    "Starting": HEALTH | {"status": "starting"},
    "Well": {"status": "ok"},
    "NotWell": {"status": "unhealthy"},
    "Metrics": METRICS,
    "Prometheus": PROMETHEUS,
    "QueueFull": QUEUE_FULL,
    "OutOfMemory": OUT_OF_MEMORY,
}
