"""qwen-server: an OpenAI-compatible HTTP server for Qwen models, with vLLM in the same process."""

__version__ = "1.0.0"
