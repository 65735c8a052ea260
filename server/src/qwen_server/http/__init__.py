"""What surrounds every request: connections, middleware, API keys, rate limits, bodies and errors.

A module belongs here if it deals with HTTP and not with what a request means: limits on connections
and bodies, authentication, disconnects, the format of error responses, and the patches of uvicorn.
Every use of uvicorn's internals is in this package.

It may import `control`, `observe`, `config` and the protocol in `engine.base`. It knows neither
routes nor request parameters, and never imports vLLM.
"""
