"""qwen-operator: turns QwenService objects into self-healing vLLM services."""

__version__ = "1.0.0"
