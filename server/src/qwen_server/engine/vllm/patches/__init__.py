"""Every place where the server reaches past vLLM's public interface, one module each.

Each module declares a `Patch`: what it gains, what it relies on, and how to find out whether that still holds. The
server works without every one of them: see `config.patches`.
"""
