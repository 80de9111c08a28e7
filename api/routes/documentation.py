"""`/docs`: the page for trying the API. All that it loads comes from here, so that it needs no internet."""

from html import escape
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from api.http.addresses import prefix_of

router = APIRouter(include_in_schema=False)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>ODS instance management</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{prefix}/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui" data-description="{prefix}/openapi.json"></div>
<script src="{prefix}/docs/swagger-ui-bundle.js"></script>
<script src="{prefix}/docs/start.js"></script>
</body>
</html>
"""
_START = """"use strict";
SwaggerUIBundle({
  url: document.getElementById("swagger-ui").dataset.description,
  dom_id: "#swagger-ui",
  deepLinking: true,
  // Otherwise it sends the address of the description to a public validator.
  validatorUrl: null,
});
"""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded from elsewhere, and no script or style that stands in a page is run."""
_DAY = {"Cache-Control": "public, max-age=86400"}


@router.get("/docs")
async def get_page(request: Request) -> Response:
    """The page."""
    page = _PAGE.format(prefix=escape(prefix_of(request.scope)))
    return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/start.js")
async def get_start() -> Response:
    """What the page does when it is loaded."""
    return Response(_START, media_type="text/javascript", headers=_DAY)


@router.get("/docs/swagger-ui-bundle.js")
async def get_script() -> Response:
    """The script of Swagger UI."""
    return FileResponse(_part("swagger-ui-bundle.js"), media_type="text/javascript", headers=_DAY)


@router.get("/docs/swagger-ui.css")
async def get_style() -> Response:
    """The style of Swagger UI."""
    return FileResponse(_part("swagger-ui.css"), media_type="text/css", headers=_DAY)


def _part(name: str) -> Path:
    """A file of Swagger UI, which the package `fastapi-swagger` brings."""
    return Path(str(files("fastapi_swagger.resources") / name))
