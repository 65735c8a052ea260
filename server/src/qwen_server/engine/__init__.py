"""Engines: the protocol in `base`, and vLLM's in-process engine in `vllm`, the only importer of vLLM."""
