"""The engine over vLLM's AsyncLLM.

Only this package imports vLLM and torch. It imports them in `start()`.
"""

from qwen_server.engine.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
