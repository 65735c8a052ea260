"""Finds the grammar of a request before the request is admitted.

The grammar follows from several fields, and from the tools by the model's parser. vLLM's own code
finds it for a copy of the request with a prompt of one character.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import StructuredOutputsParams

from qwen_server.engine.vllm.serving_objects import Api

_PROMPTS: Final[Mapping[str, Any]] = {
    "messages": [{"role": "user", "content": "x"}],
    "prompt": "x",
    "input": "x",
}


def grammar_of(api: Api, body: dict[str, Any], renderer: OnlineRenderer) -> StructuredOutputsParams | None:
    """The grammar that vLLM will use for `body`, if any. Raises what vLLM raises for the body."""
    request = api.chat(api.request(body | {api.prompt_param: _PROMPTS[api.prompt_param]}, "grammar"))
    tools = getattr(request, "tools", None)
    if tools and renderer.parser is not None and request.tool_choice != "none":
        request = renderer.parser(
            renderer.renderer.get_tokenizer(),
            tools,
            model_config=renderer.model_config,
            chat_template_kwargs=renderer.effective_chat_template_kwargs(request),
        ).adjust_request(request=request)
    grammar: StructuredOutputsParams | None = request.extract_structured_outputs()
    return grammar
