"""Declares what the server relies on in vLLM and `ourcode` cannot derive.

The list applies to the installed release and to an unpacked one. `where` names the place in our
code: a function, a class, `Class.method` or a constant.
"""

from __future__ import annotations

from typing import Any

from qwen_server.api.bodies.chat import ChatRequest
from qwen_server.api.bodies.completion import CompletionRequest
from qwen_server.api.bodies.messages import CountTokensRequest, MessagesRequest
from qwen_server.api.bodies.pooling import (
    ClassifyRequest,
    EmbeddingsRequest,
    PoolingRequest,
    RerankRequest,
    ScoreDocuments,
    ScoreTexts,
)
from qwen_server.api.bodies.responses import ResponsesRequest
from qwen_server.api.bodies.tokenization import DetokenizeRequest, TokenizeChat, TokenizeText
from qwen_server.api.bodies.unsupported import IGNORED, REFUSED
from tests.contract.relying import Calls, Does, Has, Relied, Says, Takes

# Methods of ours that override one of vLLM's only in some releases.
OPTIONAL = frozenset(
    {
        # 0.33 streams chunks where 0.32 streamed texts.
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.chat_completion_stream_generator_raw",
    }
)

_LLM = "vllm.v1.engine.async_llm:AsyncLLM"
_OUTPUT = "vllm.v1.engine.output_processor"
_STATS = "vllm.v1.metrics.stats"
_OPENAI = "vllm.entrypoints.openai"
_POOLING = "vllm.entrypoints.pooling"
_PARSER = "vllm.parser.abstract_parser"
_TEMPLATE = ("chat_template", "chat_template_content_format", "default_chat_template_kwargs", "enable_auto_tools")
_PARSERS = ("tool_parser", "reasoning_parser")
_SERVING = (*_TEMPLATE, *_PARSERS, "online_renderer", "request_logger")
_ROLE = ("engine_client", "models", "response_role")

ENGINE: tuple[Relied, ...] = (
    Calls(
        f"{_LLM}.generate",
        "EngineProxy",
        ("prompt", "sampling_params", "request_id"),
        ("priority", "trace_headers", "reasoning_ended", "lora_request"),
    ),
    Calls(f"{_LLM}.add_lora", "LoadedAdapters.add", ("lora_request",), awaited=True),
    Calls(f"{_LLM}.remove_lora", "LoadedAdapters", ("lora_id",), awaited=True),
    Calls(f"{_LLM}.collective_rpc", "LoadedAdapters", ("method",), ("args",), awaited=True),
    Has(
        "vllm.lora.model_manager:LoRAModelManager",
        "uses_of_weights",
        ("model", "modules", "packed_modules", "packed_modules_mapping", "_get_lora_layer_weights"),
    ),
    Has("vllm.lora.worker_manager:LRUCacheWorkerLoRAManager", "WorkerReports", ("_adapter_manager",)),
    Has("vllm.v1.worker.lora_model_runner_mixin:LoRAModelRunnerMixin", "WorkerReports", ("lora_manager",)),
    # It finds the weights of a module by their name alone.
    Does("vllm.lora.lora_model", "uses_of_weights", ("return self.loras.get(module_name, None)",)),
    Does(
        "vllm.lora.worker_manager",
        "uses_of_weights",
        (
            "getattr(model, 'hf_to_vllm_mapper', None)",
            "hf_to_vllm_mapper.get_rename_mapper()",
            "getattr(model, 'lora_skip_prefixes', None)",
        ),
    ),
    Has(f"{_OPENAI}.models.serving:OpenAIServingModels", "LoadedAdapters", ("lora_requests",)),
    Has("vllm.config:ModelConfig", "LoadedAdapters", ("hf_text_config",)),
    Does("vllm.entrypoints.serve.engine.serving", "Models", ("return self.models.lora_requests[request.model]",)),
    # What is cached of a prompt is found by the name of the adapter.
    Does("vllm.v1.core.kv_cache_utils", "LoadedAdapters", ("lora_request.lora_name",)),
    # The last slot is that of index -1: `_adapter_arguments` keeps it empty. 0.33 masks that index.
    Does("vllm.lora.ops.torch_ops.lora_ops", "_adapter_arguments", ("lora_b_weights[lora_indices_tensor",)),
    Does("vllm.lora.model_manager", "_adapter_arguments", ("first_free_slot = next(",)),
    Calls(
        f"{_LLM}.encode",
        "EngineProxy.encode",
        ("prompt", "pooling_params", "request_id"),
        ("trace_headers", "reasoning_ended", "priority"),
    ),
    Calls(f"{_LLM}.get_supported_tasks", "ReferencePath._build", awaited=True),
    Calls(f"{_LLM}.shutdown", "VllmEngine.shutdown", ("timeout",)),
    Calls(f"{_LLM}.is_sleeping", "Watch._ping", awaited=True),
    Calls(f"{_LLM}.reset_prefix_cache", "VllmMaintenance", ("reset_running_requests", "reset_connector"), awaited=True),
    Calls(f"{_LLM}.sleep", "VllmMaintenance", ("level", "mode"), awaited=True),
    Calls(f"{_LLM}.wake_up", "VllmMaintenance", ("tags",), awaited=True),
    Calls("vllm.entrypoints.serve.tokenize.serving:TokenizerInfo.to_dict", "VllmMaintenance.tokenizer_info"),
    Calls(f"{_LLM}.collective_rpc", "VllmEngine.start", ("method",), awaited=True),
    Calls(f"{_LLM}.get_num_unfinished_requests", "VllmEngine.vitals"),
    Calls(f"{_LLM}.get_tokenizer", "FastPath"),
    Has(
        _LLM,
        "Parts",
        ("errored", "output_processor", "engine_core", "renderer", "model_config", "vllm_config"),
    ),
    Has(_LLM, "EngineProxy", ("observability_config",)),
    Does("vllm.v1.engine.utils", "EarlyContext", ("context = get_mp_context()", "context.Process(target=")),
    Does(
        "vllm.v1.engine.input_processor",
        "date",
        ("prompt.get('arrival_time'",),
    ),
    Has(
        "vllm.config:VllmConfig",
        "FastPath",
        ("cache_config", "scheduler_config", "speculative_config", "structured_outputs_config"),
    ),
    Has("vllm.config:CacheConfig", "_info", ("num_gpu_blocks", "block_size", "kv_cache_size_tokens")),
    Has("vllm.config:SchedulerConfig", "_info", ("max_num_seqs",)),
    Has("vllm.config:ObservabilityConfig", "EngineProxy", ("otlp_traces_endpoint",)),
    Has("vllm.config:ModelConfig", "_info", ("max_model_len", "get_diff_sampling_param", "enable_sleep_mode")),
    Has(
        "vllm.engine.arg_utils:AsyncEngineArgs",
        "choose_executor",
        (
            *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
            *("reasoning_parser", "disable_log_stats", "enable_logging_iteration_details", "create_model_config"),
            "enable_sleep_mode",
        ),
    ),
    Says(
        "vllm.engine.arg_utils",
        "engine_arguments",
        (
            *("--model", "--served-model-name", "--tensor-parallel-size", "--pipeline-parallel-size"),
            *("--max-model-len", "--dtype", "--quantization", "--revision", "--otlp-traces-endpoint"),
            *("--shutdown-timeout", "--kv-cache-memory-bytes", "--gpu-memory-utilization", "--worker-extension-cls"),
            *("--enforce-eager", "--runner", "--convert"),
        ),
    ),
    Says(
        "vllm.engine.arg_utils",
        "_adapter_arguments",
        ("--enable-lora", "--max-loras", "--max-lora-rank", "--max-cpu-loras"),
    ),
    Calls(
        "vllm.model_executor.models.registry:_LazyRegisteredModel.inspect_model_cls",
        "server/Dockerfile",
    ),
)

OUTPUTS: tuple[Relied, ...] = (
    Has(
        f"{_OUTPUT}:RequestState",
        "TappedState",
        ("queue", "detokenizer", "parent_req", "output_kind", "stream_interval"),
    ),
    Has(f"{_OUTPUT}:RequestOutputCollector", "TappedState", ("output", "put")),
    Has(f"{_OUTPUT}:OutputProcessor", "TappingProcessor", ("request_states",)),
    Calls(
        "vllm.v1.engine.detokenizer:IncrementalDetokenizer.get_next_output_text", "TappedState", ("finished", "delta")
    ),
    Has("vllm.v1.engine:EngineCoreRequest", "TappingProcessor", ("request_id", "external_req_id")),
    Has(
        f"{_OUTPUT}:RequestState",
        "PlainState",
        ("is_prefilling", "stats", "streaming_input", "track_weight_version", "weight_version_starts"),
    ),
    Has(
        "vllm.v1.engine.detokenizer:FastIncrementalDetokenizer",
        "PlainState",
        ("token_ids", "output_text", "decode_next", "stop", "_last_output_text_offset"),
    ),
    Has(f"{_STATS}:RequestStateStats", "PlainState", ("last_token_ts", "num_generation_tokens")),
    Has(
        "vllm.v1.engine:EngineCoreOutput",
        "_carries_only_tokens",
        (
            *("request_id", "new_token_ids", "new_logprobs", "new_prompt_logprobs_tensors", "pooling_output"),
            *("finish_reason", "stop_reason", "events", "kv_transfer_params", "ec_transfer_params", "trace_headers"),
            *("prefill_stats", "routed_experts", "num_nans_in_logits", "mm_cache_miss_hashes", "new_sampling_mask"),
            *("spec_decode_metrics", "prompt_token_id_logprobs"),
        ),
        exactly=True,
        ignored=("error",),  # of 0.33
    ),
    Has(
        "vllm.outputs:RequestOutput",
        "Merger",
        ("outputs", "finished", "num_cached_tokens", "metrics", "prompt_token_ids"),
    ),
    Has("vllm.outputs:CompletionOutput", "Merger", ("index", "text", "token_ids", "finish_reason", "stop_reason")),
    Has(f"{_STATS}:RequestStateStats", "Merger", ("first_token_ts",)),
    Says("vllm.v1.engine", "_REASONS", ("stop", "length", "repetition", "error")),
)

METRICS: tuple[Relied, ...] = (
    Has(
        "vllm.v1.metrics.loggers:PrometheusStatLogger",
        "EngineMetrics",
        ("histogram_inter_token_latency", "counter_generation_tokens", "histogram_iteration_tokens"),
    ),
    Has(
        f"{_STATS}:SchedulerStats",
        "only_decoded",
        (
            *("num_running_reqs", "num_waiting_reqs", "num_skipped_waiting_reqs", "num_kv_fetch_reqs_by_stage"),
            *("kv_cache_usage", "prefix_cache_stats", "connector_prefix_cache_stats", "kv_cache_eviction_events"),
            *("spec_decoding_stats", "kv_connector_stats", "ec_connector_stats"),
            *("waiting_lora_adapters", "running_lora_adapters", "perf_stats"),
            # vLLM's logger for Prometheus does not use these.
            *("step_counter", "current_wave", "iteration_details", "cudagraph_stats"),
        ),
        exactly=True,
    ),
    Has(
        f"{_STATS}:IterationStats",
        "only_decoded",
        (
            *("num_generation_tokens", "prompt_token_stats", "num_preempted_reqs", "finished_requests"),
            *("max_num_generation_tokens_iter", "n_params_iter", "time_to_first_tokens_iter"),
            *("inter_token_latencies_iter", "num_corrupted_reqs"),
            *("num_watermarked_reqs", "num_watermark_skipped_reqs", "num_not_watermarked_reqs"),
            # Not a metric of a step.
            "iteration_timestamp",
        ),
        exactly=True,
        ignored=("compute_nans_in_logits",),
    ),
    Has(f"{_STATS}:IterationStats", "stat_logger", ("num_generation_tokens", "num_prompt_tokens")),
    Has(f"{_STATS}:PromptTokenStats", "only_decoded", ("total", "computed", "cached_tokens")),
    Has(f"{_STATS}:PrefixCacheStats", "only_decoded", ("queries", "hits")),
)

RENDERING: tuple[Relied, ...] = (
    Has("vllm.renderers.base:BaseRenderer", "render_on_the_spot", ("_executor", "mm_processor", "tokenizer")),
    Calls(
        "vllm.renderers.base:BaseRenderer.render_chat",
        "SpotRenderer",
        ("conversations", "chat_params", "tok_params"),
        complete=False,
    ),
    Calls("vllm.renderers.base:BaseRenderer.render_cmpl", "SpotRenderer", ("prompts", "tok_params"), complete=False),
    Has("vllm.renderers:ChatParams", "SpotRenderer", ("chat_template_kwargs",)),
    Calls("vllm.renderers.base:BaseRenderer._tokenize_prompt", "SpotRenderer", ("prompt", "params")),
    Calls("vllm.renderers.base:BaseRenderer._wants_offsets", "SpotRenderer", ("prompt", "params")),
    Calls("vllm.renderers:TokenizeParams.get_encode_kwargs", "SpotRenderer"),
    Calls(
        "vllm.renderers.online_renderer:OnlineRenderer",
        "_serving",
        keywords=("model_config", "renderer", "request_logger", *_TEMPLATE, *_PARSERS),
    ),
    Calls("vllm.renderers.online_renderer:OnlineRenderer.warmup", "_serving"),
    Calls(
        "vllm.renderers.online_renderer:OnlineRenderer.render_chat", "FastPath.prepare_chat", ("request",), awaited=True
    ),
    Calls(
        "vllm.renderers.online_renderer:OnlineRenderer.render_completion",
        "FastPath.prepare_completion",
        ("request",),
        awaited=True,
    ),
    Calls(
        "vllm.entrypoints.serve.utils.api_utils:get_max_tokens",
        "FastPath",
        ("max_model_len", "max_tokens", "input_length", "default_sampling_params"),
    ),
    Calls(
        "vllm.sampling_params:SamplingParams.verify",
        "FastPath",
        ("model_config", "speculative_config", "structured_outputs_config", "tokenizer"),
    ),
    Has("vllm.sampling_params:SamplingParams", "Work", ("n", "structured_outputs")),
    Has("vllm.sampling_params:StructuredOutputsParams", "fields_of", ("_backend", "_backend_was_auto", "json")),
    Calls(
        "vllm.sampling_params:SamplingParams._validate_structured_outputs",
        "Compiler",
        ("model_config", "structured_outputs_config", "tokenizer"),
    ),
    Calls(
        "vllm.entrypoints.generate.base.protocol:validate_structural_tag_payload",
        "trust_checked_grammars",
        ("payload",),
        ("parameter",),
    ),
    Calls("vllm.parser.abstract_parser:_xgrammar_supports", "trust_checked_grammars", ("structured_outputs",)),
    *(
        Calls(backend, "Compiler", ("vllm_config",), ("tokenizer", "vocab_size"))
        for backend in (
            "vllm.v1.structured_output.backend_xgrammar:XgrammarBackend",
            "vllm.v1.structured_output.backend_guidance:GuidanceBackend",
            "vllm.v1.structured_output.backend_outlines:OutlinesBackend",
            "vllm.v1.structured_output.backend_lm_format_enforcer:LMFormatEnforcerBackend",
        )
    ),
    Calls("vllm.v1.structured_output:StructuredOutputManager._create_grammar", "compile_politely", ("request",)),
    Has(
        "vllm.v1.structured_output:StructuredOutputManager",
        "compile_politely",
        ("executor", "_use_async_grammar_compilation"),
    ),
    Calls("vllm.v1.structured_output:StructuredOutputManager._fill_bitmasks", "Guard.attach", ("batch",)),
    Calls(
        "vllm.v1.structured_output:StructuredOutputManager.grammar_bitmask",
        "Guard.attach",
        ("requests", "structured_output_request_ids", "scheduled_spec_decode_tokens"),
    ),
    Has("vllm.v1.structured_output:StructuredOutputManager", "Guard._give_up", ("_grammar_bitmask",)),
    Calls(
        "vllm.v1.structured_output.backend_types:StructuredOutputBackend.compile_grammar",
        "Compiler",
        ("request_type", "grammar_spec"),
    ),
    Has(
        "vllm.renderers.online_renderer:OnlineRenderer",
        "grammar_of",
        ("parser", "renderer", "model_config", "effective_chat_template_kwargs"),
    ),
    *(
        Calls(f"{request}.to_sampling_params", "FastPath", ("max_tokens", "default_sampling_params"))
        for request in (
            f"{_OPENAI}.chat_completion.protocol:ChatCompletionRequest",
            f"{_OPENAI}.completion.protocol:CompletionRequest",
        )
    ),
    Has(
        f"{_OPENAI}.chat_completion.protocol:ChatCompletionRequest",
        "FastPath.prepare_chat",
        ("request_id", "max_completion_tokens", "max_tokens", "priority"),
    ),
    Has(
        f"{_OPENAI}.completion.protocol:CompletionRequest",
        "FastPath.prepare_completion",
        ("request_id", "max_tokens", "priority"),
    ),
)

SERVING: tuple[Relied, ...] = (
    Has(f"{_OPENAI}.chat_completion.serving:OpenAIServingChat", "WholeCallsChat", ("parser_cls",)),
    Has(f"{_OPENAI}.responses.serving:OpenAIServingResponses", "responses_api", ("parser", "enable_store")),
    Has(f"{_PARSER}:DelegatingParser", "_WholeCalls", ("_reasoning_parser", "_tool_parser", "tool_parser_cls")),
    Calls(f"{_PARSER}:DelegatingParser.extract_tool_calls", "_WholeCalls", ("model_output", "request")),
    Does(
        _PARSER,
        "_WholeCalls",
        (
            "self._extract_tool_calls(content=content, request=request, enable_auto_tools=enable_auto_tools)",
            "delta_text=delta_text, previous_token_ids=",
            "delta_message = self.finalize_generation(delta_message, request, state)\n        "
            "    delta_message = self._flush_engine_parsers(delta_message)",
        ),
    ),
    Has("vllm.tool_parsers.abstract_tool_parser:ToolParser", "_WholeCalls", ("supports_required_and_named",)),
    Has("vllm.parser.engine.adapters:ParserEngineToolAdapter", "_is_xml", ("_parser_engine_cls",)),
    Has("vllm.parser.qwen3:Qwen3Parser", "_is_xml", ("TOOL_START",)),
    Has("vllm.outputs:CompletionOutput", "WholeCallsChat", ("finish_reason",)),
    Calls(f"{_OPENAI}.chat_completion.serving:OpenAIServingChat", "_serving", _ROLE, _SERVING),
    Calls(
        f"{_OPENAI}.completion.serving:OpenAIServingCompletion",
        "_serving",
        ("engine_client", "models"),
        ("online_renderer", "request_logger"),
    ),
    Calls(
        f"{_OPENAI}.responses.serving:OpenAIServingResponses", "responses_api", ("engine_client", "models"), _SERVING
    ),
    Calls("vllm.entrypoints.anthropic.serving:AnthropicServingMessages", "messages_apis", _ROLE, _SERVING),
    Calls(
        "vllm.entrypoints.serve.tokenize.serving:ServingTokenization",
        "tokenization_apis",
        ("models",),
        ("online_renderer", "request_logger", *_TEMPLATE[:3]),
    ),
    Calls(
        f"{_OPENAI}.chat_completion.serving:OpenAIServingChat.create_chat_completion",
        "chat_and_completion",
        ("request",),
        awaited=True,
    ),
    Calls(
        f"{_OPENAI}.completion.serving:OpenAIServingCompletion.create_completion",
        "chat_and_completion",
        ("request",),
        awaited=True,
    ),
    Calls(
        f"{_OPENAI}.responses.serving:OpenAIServingResponses.create_responses",
        "responses_api",
        ("request",),
        awaited=True,
    ),
    *(
        Calls(
            f"vllm.entrypoints.anthropic.serving:AnthropicServingMessages.{method}",
            "messages_apis",
            ("request",),
            awaited=True,
        )
        for method in ("create_messages", "count_tokens")
    ),
    Calls(
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.to_chat_completion_request",
        "messages_apis",
        ("anthropic_request",),
        ("merge_inline_system",),
    ),
    Has("vllm.entrypoints.anthropic.serving:AnthropicServingMessages", "_converted", ("_merge_inline_system",)),
    *(
        Calls(
            f"vllm.entrypoints.serve.tokenize.serving:ServingTokenization.{method}",
            "tokenization_apis",
            ("request", "raw_request"),
            awaited=True,
        )
        for method in ("create_tokenize", "create_detokenize")
    ),
    # Converts chunks to Anthropic's events. `_Serving` keeps errors before this.
    Takes(
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.message_stream_converter",
        "_Serving",
        "generator",
        # Texts in 0.32, chunks since 0.33.
        ("AsyncGenerator[str, None]", "AsyncGenerator[ChatCompletionStreamResponse | ErrorResponse, None]"),
    ),
    Has(
        "vllm.entrypoints.anthropic.protocol:AnthropicMessagesRequest",
        "_with_switch",
        ("thinking", "chat_template_kwargs"),
    ),
    Has("vllm.entrypoints.anthropic.protocol:AnthropicMessagesResponse", "messages_apis", ("id", "stop_sequence")),
    Has(f"{_OPENAI}.responses.serving:OpenAIServingResponses", "responses_api", ("enable_store",)),
    Has(f"{_OPENAI}.responses.protocol:ResponsesRequest", "responses_api", ("request_id", "store", "input")),
    Has("vllm.entrypoints.serve.engine.protocol:ErrorInfo", "of_response", ("message", "param", "code")),
    Has("vllm.entrypoints.serve.engine.protocol:ErrorResponse", "of_response", ("error",)),
    Has("vllm.exceptions:VLLMValidationError", "translated", ("parameter",)),
)


# Fields of 0.33 that 0.32 does not have. Like other unknown ones, they have no effect.
_LATER = ("spaces_between_special_tokens",)


def _fields(symbol: str, declaration: Any, *without_effect: str) -> Has:
    """The fields of a request: vLLM has what we pass on, and we have decided about all others."""
    declared = set(declaration.__annotations__)
    passed_on = declared - IGNORED - REFUSED.keys() - {*without_effect}
    decided = tuple(sorted(declared | IGNORED | REFUSED.keys() | {*_LATER}))
    return Has(symbol, declaration.__name__, tuple(sorted(passed_on)), exactly=True, ignored=decided)


_TOKENIZE = "vllm.entrypoints.serve.tokenize.protocol"
FIELDS: tuple[Relied, ...] = (
    _fields(f"{_OPENAI}.chat_completion.protocol:ChatCompletionRequest", ChatRequest),
    _fields(f"{_OPENAI}.completion.protocol:CompletionRequest", CompletionRequest),
    _fields(f"{_OPENAI}.responses.protocol:ResponsesRequest", ResponsesRequest, "conversation", "stream_options"),
    _fields("vllm.entrypoints.anthropic.protocol:AnthropicMessagesRequest", MessagesRequest),
    _fields("vllm.entrypoints.anthropic.protocol:AnthropicCountTokensRequest", CountTokensRequest),
    _fields(f"{_TOKENIZE}:TokenizeCompletionRequest", TokenizeText, "messages"),
    _fields(f"{_TOKENIZE}:TokenizeChatRequest", TokenizeChat, "prompt"),
    _fields(f"{_TOKENIZE}:DetokenizeRequest", DetokenizeRequest),
    _fields(f"{_POOLING}.embed.protocol:EmbeddingCompletionRequest", EmbeddingsRequest),
    _fields(f"{_POOLING}.pooling.protocol:PoolingCompletionRequest", PoolingRequest, "dimensions"),
    _fields(f"{_POOLING}.classify.protocol:ClassificationCompletionRequest", ClassifyRequest),
    _fields(f"{_POOLING}.scoring.protocol:RerankRequest", RerankRequest),
    _fields(f"{_POOLING}.scoring.protocol:ScoreQueriesDocumentsRequest", ScoreDocuments, "text_1", "text_2"),
    _fields(f"{_POOLING}.scoring.protocol:ScoreTextRequest", ScoreTexts, "queries", "documents"),
)

TEXTS: tuple[Relied, ...] = (
    Says(f"{_OPENAI}.chat_completion.serving", "DISCONNECTED", ("Client disconnected", "chatcmpl-{}")),
    Says(f"{_OPENAI}.completion.serving", "DISCONNECTED", ("Client disconnected", "cmpl-{}")),
    Says(f"{_OPENAI}.responses.serving", "_OPENING", ("response.created", "response.in_progress")),
    Says("vllm.entrypoints.anthropic.serving", "MESSAGES_ERROR_EVENT", ("event: {}\ndata: {}\n\n", "error")),
    Says("vllm.renderers.params", "TOO_LONG", ("This model's maximum context length is {} tokens.",)),
    Says(
        "vllm.sampling_params",
        "PARAMETERS",
        ("n must be 1 when using greedy sampling", "Choice '{}' cannot be an empty list", "Invalid JSON grammar"),
    ),
    Says("vllm.renderers.base", "PARAMETERS", ("Token id {} is out of vocabulary", "multimodal item intact")),
    Says(
        "vllm.renderers.online_renderer",
        "PARAMETERS",
        ("Chat template is passed with request, but", "tool choice requires"),
    ),
    Says(f"{_OPENAI}.chat_completion.protocol", "PARAMETERS", ("Cannot set both `continue_final_message` and",)),
    Says("vllm.v1.engine.input_processor", "PARAMETERS", ("prompt cannot be empty",)),
    Says("vllm.pooling_params", "PARAMETERS", ("only supports dimensions in range {}, got {}.",)),
    Says("vllm.multimodal.media.image", "PARAMETERS", ("Image dimensions {}x{} ({} pixels) exceed",)),
    Says("vllm.multimodal.media.image", "TOO_MANY_PIXELS", ("Image dimensions {}x{} ({} pixels) exceed",)),
    Says("vllm.multimodal.media.image", "NOT_DECODED", ("Failed to load image: {}",)),
    Says("vllm.multimodal.media.connector", "NOT_FETCHED", ("Failed to fetch media from URL: {}",)),
    Says("vllm.multimodal.media.connector", "INVALID_URL", ("Failed to fetch media from URL: Invalid URL",)),
    Says(
        "vllm.connections",
        "FETCHED_TOO_MUCH",
        ("Remote media download exceeds VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB={}",),
    ),
    Does("vllm.multimodal.image", "limit_formats", ("Image.open(fp, formats=ALLOWED_IMAGE_FORMATS)",)),
    Has("vllm.multimodal.media:MediaConnector", "ImageConnector", ("connection",)),
    Has("vllm.utils.registry:ExtensionManager", "connect_images", ("register",)),
    Does("vllm.multimodal.media.connector", "connect_images", ("@MEDIA_CONNECTOR_REGISTRY.register('http')",)),
    Does("vllm.envs", "connect_images", ("os.getenv('VLLM_MEDIA_CONNECTOR', 'http')",)),
    Does("vllm.connections", "Hosts", ("client = await self.get_async_client()",)),
    # `reason_of` sees the answer as the cause.
    Does("vllm.multimodal.media.connector", "reason_of", ("raise wrapped from e",)),
    Says("vllm.multimodal.processing.context", "PROCESSOR_FAILED", ("Failed to apply {} on data={} with kwargs={}",)),
    Says("vllm.multimodal.registry", "NO_MEDIA", ("{} is not a multimodal model",)),
    Says(
        "vllm.renderers.chat_utils:parse_chat_messages",
        "UNSUPPORTED_TYPE",
        ("Unsupported chat content part type: {}. ",),
    ),
    Says(f"{_OPENAI}.responses.utils", "UNSUPPORTED_TYPE", ("Unsupported input item type: {}",)),
    Says(f"{_OPENAI}.responses.utils", "ENCRYPTED", ("Encrypted content is not supported.",)),
    Says("vllm.sampling_params", "LEADING_NAME", ("bad_words cannot contain an empty string.",)),
    Says("vllm.v1.engine.exceptions", "HEARSAY", ("EngineCore encountered an issue.",)),
    Says("vllm.v1.engine.core", "HEARSAY", ("Executor failed.",)),
    Says(
        "vllm.v1.executor.multiproc_executor",
        "HEARSAY",
        (
            "Executor failed.",
            "WorkerProc hit an exception.",
            "initialization failed due to an exception in a background process. See stack trace for root cause.",
        ),
    ),
    Says(
        "vllm.v1.executor.multiproc_executor",
        "WORKER_ENDED",
        ("Worker proc %s died unexpectedly (exit code: %s)",),
    ),
    Says(
        "vllm.transformers_utils.config",
        "NO_CONFIG",
        ("Invalid repository ID or local directory specified:",),
    ),
    Says(
        "vllm.v1.worker.gpu_worker",
        "NO_DEVICE",
        ("adjusted local rank {} is out of bounds for {} devices.",),
    ),
    Says(
        "vllm.v1.engine.utils",
        "explain",
        ("Engine core initialization failed. See root cause above. Failed core proc(s): {}",),
    ),
)

DECLARED = (*ENGINE, *OUTPUTS, *METRICS, *RENDERING, *SERVING, *FIELDS, *TEXTS)
