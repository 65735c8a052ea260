"""The OpenAPI document (OpenAPI 3.1).

The schemas of requests come from `api.bodies`, which also checks the requests. `answers` is what
the routes use and is cheap to import. The schemas of responses (`schemas`) and the assembly
(`document`) are imported only when the document is requested. `server/tools/generate_openapi.py`
writes `docs/openapi.json`.
"""
