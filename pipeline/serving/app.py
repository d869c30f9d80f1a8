"""The HTTP interface, over any backend that can fill a canvas."""

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipeline.serving import canvas, images
from pipeline.serving.canvas import CanvasConfig
from pipeline.serving.errors import CODES, Refusal
from pipeline.serving.images import MEDIA_TYPES, Format, Hole, Picture, Pixels
from pipeline.serving.limits import Gate, LimitsConfig, error_response
from pipeline.serving.model import Filled, ServedModel


class Backend(Protocol):
    """What fills canvases: a replica in this process, or many behind a handle."""

    async def fill(self, wanted: str, image: Pixels, mask: Pixels) -> Filled:
        """Fill one canvas; see :meth:`pipeline.serving.model.Replica.fill`."""
        ...

    async def describe(self) -> list[ServedModel]:
        """Return the versions that are served."""
        ...


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What the ingress needs to know."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What a request may cost."""
    canvas: CanvasConfig = field(default_factory=CanvasConfig)
    """How images of any size meet the network."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a caller asked for, apart from the picture itself."""

    model: str = ""
    mode: canvas.Mode = "auto"
    white_is_hole: bool = True
    output_format: Format = "png"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A composite, encoded, and how it came about."""

    data: bytes
    output_format: Format
    model: ServedModel
    hole_ratio: float
    frame: canvas.Frame
    timings: dict[str, float]
    """Milliseconds by stage, and ``batch_size``."""


async def inpaint(
    backend: Backend, config: AppConfig, wish: Wish, image: bytes, mask: bytes
) -> Answer:
    """Decode, fill and encode one pair.

    Raises:
        Refusal: if either file cannot be accepted, or no such model is served.
    """
    started = time.perf_counter()
    picture, hole, frame = await asyncio.to_thread(read_pair, config, wish, image, mask)
    laid, missing = await asyncio.to_thread(canvas.lay, picture.rgb, hole, frame)
    decoded = time.perf_counter()
    filled = await backend.fill(wish.model, laid, missing)
    drawn = time.perf_counter()
    data = await asyncio.to_thread(compose, picture, hole, frame, filled.prediction, wish)
    done = time.perf_counter()
    return Answer(
        data=data,
        output_format=wish.output_format,
        model=filled.model,
        hole_ratio=float(hole.mean()),
        frame=frame,
        timings={
            "decode_ms": _ms(decoded - started),
            "queue_ms": _ms(filled.queue_s),
            "compute_ms": _ms(filled.compute_s),
            "fill_ms": _ms(drawn - decoded),
            "encode_ms": _ms(done - drawn),
            "total_ms": _ms(done - started),
            "batch_size": filled.batch_size,
        },
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def read_pair(
    config: AppConfig, wish: Wish, image: bytes, mask: bytes
) -> tuple[Picture, Hole, canvas.Frame]:
    """Decode a pair, refuse what cannot be filled, and plan its canvas.

    Raises:
        Refusal: 400, 413 or 415, with the code of what is wrong.
    """
    limit = config.limits.max_pixels
    picture = images.decode(image, limit)
    hole = images.decode_mask(mask, limit, wish.white_is_hole)
    if hole.shape != picture.pixels.shape[:2]:
        sizes = [f"{width} × {height}" for height, width in (picture.pixels.shape[:2], hole.shape)]
        raise Refusal(
            400,
            "different_sizes",
            f"the image is {sizes[0]}, the mask {sizes[1]}: send a mask of the image's size",
        )
    if not hole.any():
        raise Refusal(
            400,
            "empty_mask",
            f"the mask marks no hole: no pixel is brighter than {images.HOLE_THRESHOLD}"
            if wish.white_is_hole
            else "the mask marks no hole: every pixel is white",
        )
    if hole.all():
        raise Refusal(
            400,
            "full_mask",
            "the mask marks the whole image; if black means hole, send mask_polarity=black",
        )
    return picture, hole, canvas.plan(hole, config.canvas, wish.mode)


def compose(
    picture: Picture, hole: Hole, frame: canvas.Frame, prediction: Pixels, wish: Wish
) -> bytes:
    """Return the composite as a file: known pixels as they were, the prediction in the hole."""
    lifted = canvas.lift(np.asarray(prediction), hole, frame)
    return images.encode(images.fill_in(picture, hole, lifted), wish.output_format)


def create_app(backend: Backend, config: AppConfig) -> FastAPI:
    """Build the application.

    Args:
        backend: what fills canvases.
        config: limits and canvases.
    """
    app = FastAPI(
        title="Infill", version="1", summary="Image and mask in, composite out.", redoc_url=None
    )
    app.add_middleware(Gate, config=config.limits)
    _add_error_shape(app)
    _add_inpaint(app, backend, config)
    _add_state(app, backend, config)
    _correct_openapi(app)
    return app


def _add_inpaint(app: FastAPI, backend: Backend, config: AppConfig) -> None:
    @app.post(
        "/v1/inpaint",
        response_class=Response,
        responses={200: _PICTURE_ANSWERS, **_ERROR_ANSWERS},
        summary="Fill the hole of one image.",
    )
    async def inpaint_one(
        request: Request,
        image: Annotated[UploadFile, File(description="PNG, JPEG or WebP.")],
        mask: Annotated[UploadFile, File(description="Of the same size; over 127 is hole.")],
        model: Annotated[str, Form(description="Such as spn or spn@3.")] = "",
        mode: Annotated[canvas.Mode, Form()] = "auto",
        mask_polarity: Annotated[Literal["white", "black"], Form()] = "white",
        output_format: Annotated[Format | None, Form()] = None,
    ) -> Response:
        accept = request.headers.get("accept", "")
        wish = Wish(
            model=model,
            mode=mode,
            white_is_hole=mask_polarity == "white",
            output_format=output_format or _accepted_format(accept),
        )
        answer = await inpaint(backend, config, wish, await image.read(), await mask.read())
        if "application/json" in accept:
            return _json_answer(answer, request.state.request_id)
        return Response(answer.data, headers=_headers(answer))


def _add_state(app: FastAPI, backend: Backend, config: AppConfig) -> None:
    @app.get("/v1/models", summary="The versions that are served.")
    async def models() -> dict[str, list[dict[str, str]]]:
        return {"models": [_public(model) for model in await backend.describe()]}

    @app.get("/healthz", summary="The service is alive.")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="A model is loaded and answers.", responses=_ERROR_ANSWERS)
    async def ready() -> dict[str, Any]:
        try:
            async with asyncio.timeout(5):
                served = await backend.describe()
        except TimeoutError:
            served = []
        if not served:
            raise Refusal(
                503, "not_ready", "no model answers yet; try again", config.limits.retry_after_s
            )
        return {"status": "ready", "models": [model.label for model in served]}


def _public(model: ServedModel) -> dict[str, str]:
    """Return what a stranger may know; where the files lie is not part of it."""
    return {
        "name": model.name,
        "version": model.version,
        "reference": model.reference,
        "digest": model.digest,
    }


def _accepted_format(accept: str) -> Format:
    """Return the first picture format named in an Accept header, else PNG."""
    named = [(accept.find(media), form) for form, media in MEDIA_TYPES.items() if media in accept]
    return min(named)[1] if named else "png"


def _headers(answer: Answer) -> Mapping[str, str]:
    return {
        "Content-Type": MEDIA_TYPES[answer.output_format],
        "X-Infill-Model": answer.model.label,
        "X-Infill-Hole-Ratio": f"{answer.hole_ratio:.6f}",
        "X-Infill-Canvas": answer.frame.kind,
    }


def _json_answer(answer: Answer, request_id: str) -> JSONResponse:
    content = {
        "image": base64.b64encode(answer.data).decode(),
        "output_format": answer.output_format,
        "model": _public(answer.model),
        "hole_ratio": answer.hole_ratio,
        "canvas": {
            "kind": answer.frame.kind,
            "height_px": answer.frame.canvas_height,
            "width_px": answer.frame.canvas_width,
        },
        "timings": answer.timings,
        "request_id": request_id,
    }
    return JSONResponse(content, headers={"X-Infill-Model": answer.model.label})


def _add_error_shape(app: FastAPI) -> None:
    """Give every error the documented shape, also those that the framework raises."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        refusal = Refusal(400, "bad_request", f"field {where!r}: {first['msg']}")
        return error_response(refusal, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if not isinstance(error, Refusal):
            code = "unknown_route" if error.status_code in (404, 405) else "bad_request"
            error = Refusal(error.status_code, code, str(error.detail))
        return error_response(error, request.state.request_id)


def _correct_openapi(app: FastAPI) -> None:
    """Leave out FastAPI's own 422, which :func:`_add_error_shape` has made a 400."""
    document = app.openapi()
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)


_ERROR_SCHEMA = {
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
_ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    for status, text in {
        400: "A field, file or mask that cannot be used.",
        404: "No such model.",
        408: "The body came too slowly.",
        413: "Too many bytes or pixels.",
        415: "Not a PNG, JPEG or WebP file of 8 bits per channel.",
        503: "Too many requests are waiting, or no model is ready; see Retry-After.",
    }.items()
}
_PICTURE_ANSWERS: dict[str, Any] = {
    "description": "The composite, or JSON with it in base64 for Accept: application/json.",
    "content": {
        **{media: {"schema": {"type": "string"}} for media in MEDIA_TYPES.values()},
        "application/json": {"schema": {"type": "object"}},
    },
}
