"""The engine over vLLM's AsyncLLM: the only package that imports vLLM and torch, and it does so in `start()`."""

from qwen_server.engine.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
