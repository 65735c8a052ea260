"""Benchmarks against vLLM's own server: `make bench-server`, or `python -m benchmarks --help`.

All load stays on loopback.
"""
