"""qwen-server: the OpenAI-compatible HTTP server for Qwen models over in-process vLLM."""

__version__ = "1.0.0"
