"""Two interfaces of other programs, as thin layers over our own.

* ``POST /api/v1/inpaint``, as IOPaint's web page and clients call it: JSON with base64 files, white
  is the hole, the response is an image file. Its sampler settings are ignored.
* ``POST /v1/images/edits``, as OpenAI's clients call it: a form whose mask is transparent in the
hole; the response is a list of base64 images. The prompt is ignored.
"""

from typing import Any

from fastapi import FastAPI, Request, Response

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
