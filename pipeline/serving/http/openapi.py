"""Additions to the OpenAPI document that FastAPI generates."""

from typing import Any, get_args

from infill.pipeline.images import MEDIA_TYPES, MaskForm
from infill.pipeline.serving.errors import CODES
from infill.pipeline.serving.http.schemas import MaskFields, RequestFields

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string", "enum": sorted(CODES)},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
            },
        }
    },
}
_ERROR_EXAMPLE = {
    "error": {
        "code": "different_sizes",
        "message": "the image is 50 × 40, the mask 40 × 40: send a mask of the image's size",
        "request_id": "5d3c1f0e9a7b4c6d8e2f1a0b9c8d7e6f",
    }
}


def _error_answer(text: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _ERROR, "example": _ERROR_EXAMPLE}}
    return {"description": text, "content": content}


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: _error_answer(text)
    for status, text in {
        400: "A field, file or mask that cannot be used.",
        401: "The API key is missing or unknown.",
        403: "The service's settings or the API key do not allow it.",
        404: "The model is not served, or there is no such job.",
        405: "The path does not support this method.",
        409: "The job has not ended.",
        406: "The Accept header names nothing that the route makes.",
        408: "The body came too slowly.",
        413: "Too many bytes or pixels.",
        415: "A body or file of a kind that is not accepted.",
        429: "The API key asks for too many images; see Retry-After.",
        503: "Too many requests are waiting, or no model is ready; see Retry-After.",
    }.items()
}
"""Every error response, in the same shape."""

_TINY = (  # 2 × 2 grey pixels, one of them white
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR42mPUMGLI+w8AA3cByblJzjMAAAAASUVO"
    "RK5CYII="
)
_PICTURE = {media: {"schema": {"type": "string"}} for media in MEDIA_TYPES.values()}
_JSON_ANSWER = {
    "type": "object",
    "required": ["output_format", "model", "hole_ratio", "canvas", "timings", "request_id"],
    "properties": {
        "image": {"type": "string", "contentEncoding": "base64"},
        "images": {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}},
        "output_format": {"type": "string", "enum": list(MEDIA_TYPES)},
        "model": {"type": "object"},
        "hole_ratio": {"type": "number", "minimum": 0, "maximum": 1},
        "mask_form": {
            "type": "string",
            "enum": list(get_args(MaskForm)),
            "description": "What marked the hole in the mask.",
        },
        "canvas": {"type": "object"},
        "scale": {
            "type": "number",
            "description": "Size at which the network saw the hole; 1 is full size.",
        },
        "timings": {"type": "object"},
        "request_id": {"type": "string"},
    },
}
PICTURE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The composite; as base64 in JSON for `Accept: application/json`.",
        "content": {**_PICTURE, "application/json": {"schema": _JSON_ANSWER}},
    }
}
LINES_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A line of JSON per pair, as each is done: its id, and response or error.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}


KEY_REUSED_ANSWER: dict[int | str, dict[str, Any]] = {
    422: _error_answer("The Idempotency-Key has created the job of another request.")
}
IDEMPOTENCY_HEADER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A text of your choice: the same request with it again gets the same job.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def pair_body() -> dict[str, Any]:
    """Return the body of ``POST /v1/inpaint``: a form, or JSON in base64."""
    file = {"type": "string", "format": "binary"}
    text = {"type": "string", "contentEncoding": "base64"}
    return _body(
        {
            "multipart/form-data": {"schema": _with_files(file)},
            "application/json": {
                "schema": _with_files(text),
                "example": {"image": _TINY, "mask": _TINY, "output_format": "png"},
            },
        }
    )


def mask_body() -> dict[str, Any]:
    """Return the body of ``POST /v1/mask``: a form."""
    schema = MaskFields.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "The mask."}
    schema["properties"] = {"mask": file, **schema["properties"]}
    schema["required"] = ["mask"]
    return _body({"multipart/form-data": {"schema": schema}})


def batch_body() -> dict[str, Any]:
    """Return the body of ``POST /v1/inpaint/batch``: lines of JSON, or a form."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = _with_files(files)
    form["properties"]["id"] = {"type": "array", "items": {"type": "string"}}
    return _body(
        {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": f'{{"id": "a", "image": "{_TINY}", "mask": "{_TINY}"}}\n',
            },
            "multipart/form-data": {"schema": form},
        }
    )


def _with_files(kind: dict[str, Any]) -> dict[str, Any]:
    schema = RequestFields.model_json_schema()
    image = {
        **kind,
        "description": "PNG, JPEG or WebP; BMP, TIFF, GIF and others are read as well.",
    }
    mask = {
        **kind,
        "description": "Of the image's size; if absent, the image's transparency is the hole.",
    }
    schema["properties"] = {"image": image, "mask": mask, **schema["properties"]}
    schema["required"] = ["image"]
    return schema


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}
