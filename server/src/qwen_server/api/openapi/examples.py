"""The examples of the API's specification, word for word, and those of what the specification does not show."""

from __future__ import annotations

from typing import Any

CHAT_REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": "请分类这条新闻：央行宣布降息25个基点"}],
    "max_tokens": 100,
    "temperature": 0.3,
}
CHAT_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-123456789",
    "object": "chat.completion",
    "created": 1703404800,
    "model": "qwen-news-classifier",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "这条新闻属于【财经】类别..."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 50, "completion_tokens": 80, "total_tokens": 130},
}
COMPLETION_REQUEST: dict[str, Any] = {
    "prompt": "请分类：苹果发布新款iPhone\n类别：",
    "max_tokens": 50,
    "temperature": 0.3,
}
COMPLETION_ANSWER: dict[str, Any] = {
    "id": "cmpl-123456789",
    "object": "text_completion",
    "created": 1703404800,
    "model": "qwen-news-classifier",
    "choices": [{"text": "科技", "index": 0, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35},
}
HEALTH: dict[str, Any] = {
    "status": "ok",
    "gpu": {"allocated_gb": 6.92, "reserved_gb": 7.02, "free_gb": 2.72},
    "limits": {"max_concurrent_requests": 3, "max_queue_size": 10, "rate_limit": "无限制"},
}
METRICS: dict[str, Any] = {
    "timestamp": "2025-12-24T21:11:59.226485",
    "service": "qwen-vllm",
    "version": "1.0.0",
    "status": "healthy",
    "uptime": {"seconds": 117.3, "human": "0h 1m"},
    "requests": {
        "waiting": 0,
        "running": 0,
        "peak_concurrent": 1,
        "total": 3,
        "successful": 3,
        "failed": 0,
        "success_rate_percent": 100.0,
        "error_rate_percent": 0.0,
        "requests_per_second": 0.026,
    },
    "tokens": {"total_input": 27, "total_output": 43, "avg_per_request": 14.3},
    "slo": {
        "ttft": {"mean": 0.6978, "p50": 0.6143, "p95": 0.9588, "p99": 0.9588, "unit": "seconds"},
        "throughput": {"decoding_mean": 3.41, "decoding_p50": 3.39, "total": 3.11, "unit": "tokens/sec"},
        "sample_size": 3,
    },
    "latency": {
        "mean": 4.6085,
        "p50": 4.0945,
        "p95": 6.2639,
        "p99": 6.2639,
        "min": 3.467,
        "max": 6.2639,
        "unit": "seconds",
    },
    "latency_histogram": {
        "0-100ms": 0,
        "100-500ms": 0,
        "500-1000ms": 0,
        "1-2s": 0,
        "2-5s": 2,
        "5-10s": 1,
        ">10s": 0,
    },
    "gpu": {
        "name": "NVIDIA GeForce RTX 3080",
        "allocated_gb": 7.64,
        "total_gb": 9.64,
        "free_gb": 2.0,
        "utilization_percent": 79.3,
    },
    "errors": {"total": 0, "by_type": {}},
    "alerts": [],
    "alerts_count": 0,
}
PROMETHEUS = """\
# HELP vllm_num_waiting_requests Number of requests waiting in queue
# TYPE vllm_num_waiting_requests gauge
vllm_num_waiting_requests 0

# HELP vllm_num_running_requests Number of requests currently running
# TYPE vllm_num_running_requests gauge
vllm_num_running_requests 0

# HELP vllm_ttft_p95 P95 time to first token in seconds
# TYPE vllm_ttft_p95 gauge
vllm_ttft_p95 0.68

# HELP vllm_decoding_throughput_mean Mean decoding throughput in tokens/sec
# TYPE vllm_decoding_throughput_mean gauge
vllm_decoding_throughput_mean 3.5
"""
QUEUE_FULL: dict[str, Any] = {"error": "服务繁忙，请稍后重试", "queue_size": 10, "max_queue_size": 10}
OUT_OF_MEMORY: dict[str, Any] = {"error": "CUDA out of memory..."}

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
