"""Engines: the protocol in `base` and vLLM in `vllm`, the only package that imports vLLM."""
