"""The mask that the service reads in a file, for pages and programs that show it."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.datastructures import UploadFile

from infill.pipeline.images import encode_mask
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.forms import (
    query_of,
    read_form,
    refuse_repeated,
    require_form,
    texts_of,
)
from infill.pipeline.serving.http.inpaint_service import InpaintService
from infill.pipeline.serving.http.negotiation import require_acceptable
from infill.pipeline.serving.http.openapi import ERROR_ANSWERS, mask_body
from infill.pipeline.serving.http.schemas import MaskFields, check

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The hole, white, as a PNG of 1 bit; X-Infill-Mask-Form says what marks it.",
        "content": {"image/png": {"schema": {"type": "string"}}},
    }
}


def add_mask_routes(app: FastAPI, service: InpaintService) -> None:
    """Add the route to the application."""

    @app.post(
        "/v1/mask",
        summary="Read a mask as the other routes do.",
        response_class=Response,
        responses={**_ANSWER, **ERROR_ANSWERS},
        openapi_extra=mask_body(),
    )
    async def read(request: Request) -> Response:
        require_acceptable(request, "image/png")
        query_of(request)
        require_form(request)
        async with read_form(request) as form:
            refuse_repeated(name for name, _ in form.multi_items())
            mask = form.get("mask")
            if not isinstance(mask, UploadFile):
                raise RequestError(400, "bad_request", "field 'mask' is not a file")
            data = await mask.read()
            fields = check(MaskFields, texts_of(form, ("mask",)))
        found = await service.read_mask(data, fields.rule)
        headers = {
            "X-Infill-Mask-Form": found.form,
            "X-Infill-Hole-Ratio": f"{found.hole_ratio:.6f}",
        }
        data = await asyncio.to_thread(encode_mask, found.hole, one_bit=True)
        return Response(data, media_type="image/png", headers=headers)
