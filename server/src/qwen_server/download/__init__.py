"""`qwen-server download`: puts a model into the cache before any server needs it.

The operator runs it in a Job. It needs neither vLLM nor torch, and no GPU.
"""
