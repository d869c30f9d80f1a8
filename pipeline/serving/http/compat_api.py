"""Two interfaces of other programs, as thin layers over our own.

* ``POST /api/v1/inpaint``, as IOPaint's web page and clients call it: JSON with base64 files, white
  is the hole, the response is an image file. Its sampler settings are ignored.
* ``POST /v1/images/edits``, as OpenAI's clients call it: a form whose mask is transparent in the
hole; the response is a list of base64 images. The prompt is ignored.
"""

import asyncio
import base64
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.datastructures import UploadFile

from infill.pipeline.images import MaskRule, encode_mask, read_mask
from infill.pipeline.serving.errors import RequestError, image_errors_refused
from infill.pipeline.serving.http.inpaint_service import InpaintService
from infill.pipeline.serving.http.responses import headers_of
from infill.pipeline.serving.http.schemas import RequestFields, check, from_base64, json_object

_OPENAI_FIELDS = {"model": "model", "n": "samples", "output_format": "output_format"}


def add_compat_routes(
    app: FastAPI, service: InpaintService, answers: dict[int | str, dict[str, Any]]
) -> None:
    """Add both interfaces to the application."""

    @app.post(
        "/api/v1/inpaint",
        response_class=Response,
        responses=answers,
        summary="As IOPaint's clients call it.",
        openapi_extra=_body("application/json", ["image", "mask"]),
    )
    async def iopaint(request: Request) -> Response:
        values = json_object(await request.body())
        image, mask = (from_base64(values.get(name), name) for name in ("image", "mask"))
        seed = values.get("sd_seed")
        fields = check(RequestFields, {"seed": seed} if isinstance(seed, int) and seed >= 0 else {})
        answer = await service.inpaint(fields.options("image/png"), image, mask)
        return Response(
            answer.files[0], headers={**headers_of(answer), "X-Seed": str(fields.seed or 0)}
        )

    @app.post(
        "/v1/images/edits",
        responses=answers,
        summary="As OpenAI's clients call it.",
        openapi_extra=_body("multipart/form-data", ["image"]),
    )
    async def openai(request: Request) -> dict[str, Any]:
        async with request.form(max_files=17, max_fields=32) as form:
            sent = form.getlist("image") + form.getlist("image[]")
            mask = form.get("mask")
            image = [await part.read() for part in sent if isinstance(part, UploadFile)]
            own_mask = await mask.read() if isinstance(mask, UploadFile) else None
            chosen = {
                ours: form[theirs] for theirs, ours in _OPENAI_FIELDS.items() if theirs in form
            }
            wants_url = form.get("response_format") == "url"
        if len(image) != 1:
            raise RequestError(400, "bad_request", f"send one image, not {len(image)}")
        if wants_url:
            raise RequestError(
                400, "bad_request", "this service makes no URLs: use response_format b64_json"
            )
        options = check(RequestFields, chosen).options("image/png")
        if own_mask is not None:
            limit = service.config.limits.max_pixels
            own_mask = await asyncio.to_thread(_opaque_is_known, own_mask, limit)
        answer = await service.inpaint(options, image[0], own_mask)
        data = [{"b64_json": base64.b64encode(file).decode()} for file in answer.files]
        return {"created": int(time.time()), "data": data}


@image_errors_refused()
def _opaque_is_known(mask: bytes, max_pixels: int) -> bytes:
    """Convert a mask that is transparent in the hole to one that is white there."""
    transparent = MaskRule(channel="alpha", polarity="black")
    return encode_mask(read_mask(mask, transparent, max_pixels=max_pixels))


def _body(media_type: str, required: list[str]) -> dict[str, Any]:
    kind = {"type": "string"}
    if media_type == "multipart/form-data":
        kind = {"type": "string", "format": "binary"}
    schema = {
        "type": "object",
        "required": required,
        "properties": {name: kind for name in ("image", "mask")},
    }
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
