"""The page with the brush, its scripts and styles, and the reference of the interface.

The page's files are in ``page/``, plain modules that a browser runs as they are. ``main.js`` joins
them; each other one has one job:

    photograph.js, workspace.js   one photograph with its hole and history; all that are open
    mask.js, mask_operations.js   the hole's levels and its edits; clear, invert, grow, feather
    brush.js, selection.js        strokes; rectangle, lasso and polygon
    history.js                    undo and redo
    view.js, guides.js            zoom, pan, and incremental drawing; the ring and the outlines
    tools.js, tool_options.js     what a gesture does; the chosen tool and its options
    pointer.js, keys.js           mouse, pen and fingers; the keyboard
    service.js, fill_queue.js     requests; which photograph is filled, and what becomes of it
    blend.js, download.js         soft edges; names and formats (jpeg_exif.js keeps EXIF)
"""

from importlib.resources import files
from pathlib import PurePath

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse

from infill.pipeline.serving.http.docs_page import reference_page

_FOLDER = files("infill.pipeline.serving.http").joinpath("page")
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_FILES = {file.name: file.read_bytes() for file in _FOLDER.iterdir()}
PAGE_PATHS = frozenset({"/", *(f"/page/{name}" for name in _FILES)})
"""Paths of the page; they need no API key."""

_COMMON_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PAGE_HEADERS = {
    **_COMMON_HEADERS,
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' blob:; "
    "style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
"""Headers of the page: it loads and runs the service's own files only."""
_REFERENCE_HEADERS = {
    **_COMMON_HEADERS,
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def add_page_routes(app: FastAPI) -> None:
    """Add the page and its files to the application."""

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return _file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def show_file(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404)
        return _file(name)


def add_reference_route(app: FastAPI) -> None:
    """Add the reference of the interface to the application."""

    @app.get("/docs", include_in_schema=False)
    def show_reference() -> Response:  # In a thread.
        return HTMLResponse(reference_page(app.openapi()), headers=_REFERENCE_HEADERS)


def _file(name: str) -> Response:
    media_type = _MEDIA_TYPES[PurePath(name).suffix]
    return Response(_FILES[name], media_type=media_type, headers=PAGE_HEADERS)
