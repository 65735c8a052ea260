"""GET /openapi.json, and the pages that show it: /docs (Swagger UI) and /redoc, with their files.

The pages load nothing from other hosts, and their Content-Security-Policy forbids it. The files are
part of the package `fastapi_offline`.
"""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from qwen_server.api.routes.common import service_of

router = APIRouter(include_in_schema=False)

# Both pages set styles at run time, and ReDoc searches in a worker that it creates from a blob.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_ASSET_HEADERS: Final = {"cache-control": "public, max-age=3600", "x-content-type-options": "nosniff"}

# The URLs are relative, so that the pages also work behind a proxy that adds a prefix.
_SWAGGER: Final = """\
<!DOCTYPE html>
<html lang="zh">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Qwen-vLLM API - Swagger UI</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# validatorUrl must be null, or Swagger UI loads a badge from another host.
_SWAGGER_START: Final = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
_REDOC: Final = """\
<!DOCTYPE html>
<html lang="zh">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Qwen-vLLM API - ReDoc</title>
<link rel="icon" href="docs/favicon.png">
<style>body { margin: 0; padding: 0; }</style>
</head>
<body>
<redoc spec-url="openapi.json"></redoc>
<script src="docs/redoc.standalone.js"></script>
</body>
</html>
"""
_FILES: Final = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "redoc.standalone.js", "favicon.png"})


def _folder() -> Path:
    """Returns the folder with the files of `fastapi_offline`, without importing the package."""
    spec = importlib.util.find_spec("fastapi_offline")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("fastapi-offline is not installed")
    return Path(spec.origin).parent / "static"


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Returns the OpenAPI document. It is built on the first request."""
    app = request.app
    if app.openapi_schema is None:
        # In a thread, because it takes tens of milliseconds. Imported here, because most servers
        # never need it.
        from qwen_server.api.openapi.document import document, for_task  # noqa: PLC0415

        settings = service_of(request).settings
        app.openapi_schema = for_task(await asyncio.to_thread(document, app.routes, settings), settings.task)
    return JSONResponse(app.openapi_schema)


@router.get("/docs")
async def swagger() -> Response:
    """Swagger UI."""
    return HTMLResponse(_SWAGGER, headers=_PAGE_HEADERS)


@router.get("/redoc")
async def redoc() -> Response:
    """ReDoc."""
    return HTMLResponse(_REDOC, headers=_PAGE_HEADERS)


@router.get("/docs/")
@router.get("/redoc/")
async def without_slash(request: Request) -> Response:
    """Redirects to the page, whose relative links need its own path."""
    return RedirectResponse(f"..{request.url.path.rstrip('/')}", 308)


@router.get("/docs/start.js")
async def start() -> Response:
    """Returns the script that starts Swagger UI. The page's policy forbids inline scripts."""
    return Response(_SWAGGER_START, media_type="text/javascript", headers=_ASSET_HEADERS)


@router.get("/docs/{name}")
async def asset(request: Request) -> Response:
    """Returns a file that the pages load."""
    name = request.path_params["name"]
    if name not in _FILES:
        raise HTTPException(404)
    return FileResponse(_folder() / name, headers=_ASSET_HEADERS)
