"""OpenAI's image edits, as their clients call them, over our own service.

The mask is transparent in the hole. Prompt, ``size``, ``quality``, ``background`` and the like are
ignored: a composite has the size of its image. A stream carries finished images only.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData, UploadFile

from infill.pipeline.images import MaskRule, upright_size
from infill.pipeline.inference.pair_files import InpaintOptions
from infill.pipeline.serving.errors import RequestError, shortened
from infill.pipeline.serving.http.base64_pieces import encode_base64
from infill.pipeline.serving.http.forms import query_of, read_form, require_form, texts_of
from infill.pipeline.serving.http.inpaint_service import InpaintResult, InpaintService
from infill.pipeline.serving.http.negotiation import JSON, require_acceptable
from infill.pipeline.serving.http.responses import facts_of
from infill.pipeline.serving.http.schemas import RequestFields, check

MAX_SAMPLES = 10
_FIELDS = {
    "model": "model",
    "n": "samples",
    "output_format": "output_format",
    "output_compression": "quality",
}
_IMAGES = ("image", "image[]")
_FILES = (*_IMAGES, "mask")
_IGNORED = frozenset(
    ("prompt", "size", "quality", "background", "user", "style")
    + ("input_fidelity", "moderation", "partial_images")
)
"""Fields that change nothing here, whatever their values."""
_TRANSPARENT = MaskRule(channel="alpha", polarity="black")
_NO_TOKENS = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def add_openai_routes(
    app: FastAPI, service: InpaintService, answers: dict[int | str, dict[str, Any]]
) -> None:
    """Add the routes to the application."""

    @app.post(
        "/v1/images/edits",
        response_class=Response,
        responses=answers,
        summary="As OpenAI's clients call it.",
        openapi_extra=_body(),
    )
    async def edit(request: Request) -> Response:
        require_acceptable(request, JSON, "text/event-stream")
        query_of(request, "api-version")  # Of Azure's clients.
        require_form(request)
        async with read_form(request) as form:
            image, mask = await _files(form)
            fields = texts_of(form, _FILES)
        options, stream = _options(fields, mask is not None), _stream(fields)
        answer = await service.inpaint(options, image, mask)
        return await asyncio.to_thread(_streamed if stream else _answered, answer)

    async def refuse(request: Request) -> Response:
        raise RequestError(
            404, "unknown_route", "this service fills holes of images: call /v1/images/edits"
        )

    for name in ("generations", "variations"):
        app.add_api_route(f"/v1/images/{name}", refuse, methods=["POST"], include_in_schema=False)


async def _files(form: FormData) -> tuple[bytes, bytes | None]:
    """Return the image and the mask, if there is one.

    Raises:
        RequestError: 400 unless there is one image.
    """
    sent = [part for name in _IMAGES for part in form.getlist(name)]
    if len(sent) != 1:
        raise RequestError(400, "bad_request", f"field 'image': send one image, not {len(sent)}")
    masks = form.getlist("mask")
    if len(masks) > 1:
        raise RequestError(400, "bad_request", "field 'mask' is given twice")
    files = [part for part in (*sent, *masks) if isinstance(part, UploadFile)]
    if len(files) < len(sent) + len(masks):
        name = "mask" if isinstance(sent[0], UploadFile) else "image"
        raise RequestError(400, "bad_request", f"field {name!r} is not a file: no URL is fetched")
    return await files[0].read(), await files[1].read() if masks else None


def _options(given: Mapping[str, str], has_mask: bool) -> InpaintOptions:
    unknown = given.keys() - _FIELDS.keys() - _IGNORED - {"response_format", "stream"}
    if unknown:
        name = shortened(min(unknown))
        raise RequestError(400, "bad_request", f"field {name!r}: OpenAI's clients have none")
    if given.get("response_format", "b64_json") != "b64_json":
        raise RequestError(
            400,
            "bad_request",
            "field 'response_format': this service makes no URLs, use b64_json",
        )
    known = {ours: given[theirs] for theirs, ours in _FIELDS.items() if theirs in given}
    fields = check(RequestFields, known)
    if fields.samples > MAX_SAMPLES:
        raise RequestError(400, "bad_request", f"field 'n': at most {MAX_SAMPLES} images")
    options = fields.options("image/png")
    return replace(options, mask_rule=_TRANSPARENT, mask_fields=None) if has_mask else options


def _stream(given: Mapping[str, str]) -> bool:
    wanted = given.get("stream", "false").lower()
    if wanted not in ("true", "false", "1", "0"):
        raise RequestError(400, "bad_request", "field 'stream' is neither true nor false")
    return wanted in ("true", "1")


def _facts(answer: InpaintResult) -> dict[str, Any]:
    """Return what answers and events share."""
    height, width = upright_size(answer.files[0], 2**40)
    return {
        "output_format": answer.output_format,
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "auto",
        "usage": _NO_TOKENS,
    }


def _answered(answer: InpaintResult) -> Response:
    data = [{"b64_json": encode_base64(file).decode()} for file in answer.files]
    values = {"created": int(time.time()), "data": data, **_facts(answer)}
    return JSONResponse(values, headers=facts_of(answer))


def _streamed(answer: InpaintResult) -> Response:
    """Return an event for each image. The work is done by now, so an error has its status."""
    kind, events = "image_edit.completed", []
    for file in answer.files:
        values = {
            "type": kind,
            "b64_json": encode_base64(file).decode(),
            "created_at": int(time.time()),
            **_facts(answer),
        }
        events.append(f"event: {kind}\ndata: {json.dumps(values)}\n\n")
    headers = {**facts_of(answer), "Cache-Control": "no-cache"}
    return Response("".join(events), media_type="text/event-stream", headers=headers)


def _body() -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    schema = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": file, "mask": file},
    }
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
