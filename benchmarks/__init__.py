"""Side by side with vLLM's own server: `make bench-server`, or `python -m benchmarks --help`. Load on loopback only."""
