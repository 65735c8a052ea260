"""The places where the server uses more than vLLM's public interface, one module each.

Each module declares a `Patch`: what it gains, what it relies on and a check that this still holds.
The server works without any of them, see `config.patches`.
"""
