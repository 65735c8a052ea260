"""The HTTP API: what each path accepts, what it does, and what it answers.

A module belongs here if it knows the meaning of a request: the routes, the declarations of the
bodies (`bodies`), the handler that takes a request from the rate limit to its last byte, streaming,
and the OpenAPI document (`openapi`).

It is the top layer below `app` and may import every other package except `engine.vllm`: it reaches
the engine through the protocol in `engine.base`.
"""
