"""The API's description of itself (OpenAPI 3.1). Requests are checked by the same declarations (`api.bodies`).

`answers` is what the routes use and costs nothing to import; the models in `schemas` and the assembly in `document` are
imported when the description is asked for. `server/tools/generate_openapi.py` writes `docs/openapi.json`.
"""
