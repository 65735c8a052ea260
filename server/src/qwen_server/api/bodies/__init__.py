"""The bodies of requests, each declared once: the same types check what arrives and describe the
API (OpenAPI).

One module an API holds its declarations (`TypedDict`s, so that a checked body stays a plain dict)
and what the server makes of them; `checking` runs them, and `limits` holds what the settings bound.
"""
