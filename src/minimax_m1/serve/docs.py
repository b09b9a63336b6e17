"""`/docs`: the API's document to read and try in a browser, with nothing fetched from elsewhere.

In: requests for the page and the files behind it. Out: them, from the package's own copy of Swagger UI (Apache 2.0,
its licence beside it), under a policy that forbids the browser every other origin.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from minimax_m1.wire.errors import Fault

_VERSION = "5.35.0"  # of Swagger UI
_KINDS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
# Paths are relative, so that the page works behind a proxy that puts something before them.
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>minimax-m1: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css?v={_VERSION}">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js?v={_VERSION}"></script>
<script src="docs/start.js?v={_VERSION}"></script>
</body>
</html>
"""
# A file of its own: the policy lets no script stand in the page. The validator would send the document away.
_START = """SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def docs_page(_: Request) -> Response:
    """The page."""
    return Response(
        _PAGE,
        headers={"cache-control": "no-cache", "content-security-policy": _POLICY, "x-content-type-options": "nosniff"},
        media_type="text/html",
    )


async def docs_file(request: Request) -> Response:
    """A file behind it, by the path's `file`; raises Fault (404)."""
    name = str(request.path_params["file"])
    if name == "start.js":
        return _lasting(_START.encode(), "text/javascript")
    if name not in _KINDS:
        raise Fault(404, f"there is no file {name!r} behind the docs", code="not_found")
    return _lasting((files("minimax_m1") / "assets" / "swagger" / name).read_bytes(), _KINDS[name])


def _lasting(data: bytes, kind: str) -> Response:
    """What never changes under its address, which holds the version."""
    headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return Response(data, headers=headers, media_type=kind)
