"""qwen-operator: runs QwenServices, Qwen models served by vLLM, on Kubernetes."""

__version__ = "1.0.0"
