"""Error responses in the shape that the callers of a route expect."""

import re
from typing import Any

from starlette.responses import JSONResponse

from infill.pipeline.serving.errors import RequestError, error_body

_OPENAI_PATHS = ("/v1/images/", "/v1/models")
_FIELD = re.compile(r"^field '(\w+)'")
_OPENAI_FIELDS = {"samples": "n", "quality": "output_compression"}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_response(refusal: RequestError, request_id: str, path: str) -> JSONResponse:
    """Return an error as JSON.

    Args:
        refusal: the error.
        request_id: of the request.
        path: path of the request: Open Inference clients read ``error`` as a sentence, and OpenAI's
            clients expect ``type`` and ``param`` beside the code, and IOPaint's application
            ``errors``.
    """
    content: dict[str, Any] = error_body(refusal.code, refusal.detail, request_id)
    if path == "/v2" or path.startswith("/v2/"):
        content = {"error": f"{refusal.detail} ({refusal.code})"}
    elif path.startswith(_OPENAI_PATHS):
        usual = "invalid_request_error" if refusal.status_code < 500 else "server_error"
        kind = _OPENAI_TYPES.get(refusal.status_code, usual)
        message, param = _in_openai_s_names(refusal.detail)
        content["error"] |= {"message": message, "type": kind, "param": param}
    elif path.startswith("/api/v1/"):  # what IOPaint's application shows
        content["errors"] = refusal.detail
    return JSONResponse(content, refusal.status_code, headers=refusal.headers)


def _in_openai_s_names(message: str) -> tuple[str, str | None]:
    """Return a message, and the field that it begins with, by OpenAI's name of that field."""
    found = _FIELD.match(message)
    if found is None:
        return message, None
    param = _OPENAI_FIELDS.get(found[1], found[1])
    return f"field {param!r}{message[found.end() :]}", param
