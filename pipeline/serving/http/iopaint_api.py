"""What IOPaint's web application and clients call, over our own service.

White is the hole, and the response is a PNG. Plugins, prompts and samplers are not offered. The
application chooses a model once; here a cookie keeps the choice, so that callers do not choose for
each other. Browsers keep no cookie for a page of another origin, so such a page cannot choose.
"""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from infill.pipeline.images import Hole
from infill.pipeline.images.codec import encode_pixels
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.forms import content_type
from infill.pipeline.serving.http.inpaint_service import InpaintService
from infill.pipeline.serving.http.negotiation import require_acceptable
from infill.pipeline.serving.http.progress_events import ProgressEvents
from infill.pipeline.serving.http.responses import headers_of
from infill.pipeline.serving.http.schemas import RequestFields, check, from_base64, json_object

COOKIE = "infill_model"
_MODES = {"Crop": "auto", "Resize": "resize", "Original": "auto"}
_BRUSH = (0, 203, 255, 186)  # the colour of masks in the application, RGBA
_MAX_KERNEL_PX = 256
_NO_PLUGINS = ("switch_plugin_model", "run_plugin_gen_mask", "run_plugin_gen_image", "save_image")


def add_iopaint_routes(
    app: FastAPI,
    service: InpaintService,
    answers: dict[int | str, dict[str, Any]],
    events: ProgressEvents,
) -> None:
    """Add the routes to the application; they tell ``events`` of their progress."""

    @app.post(
        "/api/v1/inpaint",
        response_class=Response,
        responses=answers,
        summary="As IOPaint's clients call it.",
        openapi_extra=_body(["image", "mask"]),
    )
    async def inpaint(request: Request) -> Response:
        require_acceptable(request, "image/png")
        if content_type(request).startswith("multipart/"):
            raise RequestError(415, "unsupported_body", "the body is a form: send application/json")
        values, image, mask = await asyncio.to_thread(_read, await request.body())
        fields = _fields(values, request.cookies.get(COOKIE, ""))
        await events.emit("diffusion_progress", {"step": 0})
        try:
            answer = await service.inpaint(fields.options("image/png"), image, mask)
        finally:
            await events.emit("diffusion_finish")
        headers = {**headers_of(answer), "X-Seed": str(fields.seed or 0)}
        return Response(answer.files[0], headers=headers)

    @app.post(
        "/api/v1/adjust_mask",
        response_class=Response,
        responses=answers,
        summary="Grow, shrink or invert a mask, as IOPaint's application asks.",
        openapi_extra=_body(["mask"]),
    )
    async def adjust(request: Request) -> Response:
        values = await asyncio.to_thread(json_object, await request.body())
        mask = await asyncio.to_thread(from_base64, values.get("mask"), "mask")
        size, operation = values.get("kernel_size", 5), values.get("operate")
        if type(size) is not int or not 0 < size <= _MAX_KERNEL_PX:
            raise RequestError(
                400, "bad_request", f"field 'kernel_size' is not 1 to {_MAX_KERNEL_PX}"
            )
        if operation not in ("expand", "shrink", "reverse"):
            raise RequestError(
                400, "bad_request", "field 'operate' is not expand, shrink or reverse"
            )
        hole = (await service.read_mask(mask)).hole
        adjusted = await asyncio.to_thread(_adjusted, hole, size, operation)
        return Response(adjusted, media_type="image/png")

    _add_state(app, service, answers)


def _read(body: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Return the fields, the image and the mask of a request."""
    values = json_object(body)
    image, mask = (from_base64(values.get(name), name) for name in ("image", "mask"))
    return values, image, mask


def _bad(name: str, wanted: str) -> RequestError:
    return RequestError(400, "bad_request", f"field {name!r} is not {wanted}")


def _fields(values: dict[str, Any], model: str) -> RequestFields:
    """Return the options that IOPaint's request has in common with ours.

    Raises:
        RequestError: 400 if one of them is wrong.
    """
    seed, strategy = values.get("sd_seed"), values.get("hd_strategy")
    given: dict[str, Any] = {"model": model}
    if seed is not None and (type(seed) is not int or seed >= 2**63):
        raise _bad("sd_seed", "a whole number below 2^63")
    if seed is not None and seed >= 0:  # -1 leaves it to the service.
        given["seed"] = seed
    if strategy is not None:
        if not isinstance(strategy, str) or strategy not in _MODES:
            raise _bad("hd_strategy", f"one of {', '.join(_MODES)}")
        given["mode"] = _MODES[strategy]
    return check(RequestFields, given)


def _adjusted(hole: Hole, size_px: int, operation: str) -> bytes:
    levels = hole.astype(np.uint8)
    if operation == "reverse":
        levels = 1 - levels
    else:
        grows = operation == "expand"
        away = cv2.distanceTransform(1 - levels if grows else levels, cv2.DIST_L2, cv2.DIST_MASK_5)
        levels = ((away <= size_px) if grows else (away > size_px)).astype(np.uint8)
    return encode_pixels(levels[..., None] * np.array(_BRUSH, np.uint8))


def _add_state(
    app: FastAPI, service: InpaintService, answers: dict[int | str, dict[str, Any]]
) -> None:
    hidden: dict[str, Any] = {"include_in_schema": False, "response_class": Response}

    async def names() -> list[str]:
        return list(dict.fromkeys(model.name for model in await service.models.get()))

    async def chosen(request: Request) -> str:
        served, wanted = await names(), request.cookies.get(COOKIE, "")
        return wanted if wanted in served else (served or ["none"])[0]

    def foreign(request: Request) -> bool:
        return bool(service.config.cors_origins) and _is_of_another_origin(request)

    @app.get("/api/v1/server-config", **hidden)
    async def server_config(request: Request) -> Response:
        served = await names()
        return JSONResponse(_server_config(served, len(served) > 1 and not foreign(request)))

    @app.get("/api/v1/model", **hidden)
    async def current(request: Request) -> Response:
        name = await chosen(request)
        answer = JSONResponse(_model(name))
        if request.cookies.get(COOKIE, name) != name:  # Its model is not served any more.
            answer.delete_cookie(COOKIE)
        return answer

    @app.post(
        "/api/v1/model",
        summary="Choose a model for this browser, as IOPaint's application does.",
        response_class=Response,
        responses=answers,
        openapi_extra=_body(["name"]),
    )
    async def switch(request: Request) -> Response:
        name = json_object(await request.body()).get("name")
        if not isinstance(name, str):
            raise RequestError(400, "bad_request", "field 'name' is not a text")
        if name not in await names():
            raise RequestError(404, "unknown_model", f"no model {name[:100]!r} is served")
        if foreign(request) and name != await chosen(request):
            raise RequestError(
                403,
                "forbidden",
                "a page of another origin cannot choose a model, as browsers keep no cookie for "
                "it: open the application at the service's own address (--web-app), or call "
                "/v1/inpaint, whose field 'model' chooses",
            )
        answer = JSONResponse(_model(name))
        answer.set_cookie(COOKIE, name, httponly=True, samesite="strict")
        return answer

    @app.get("/api/v1/inputimage", **hidden)
    async def input_image() -> Response:
        return Response(status_code=204)

    @app.post("/api/v1/gen-info", **hidden)
    async def generation_info(request: Request) -> Response:
        await request.body()
        return JSONResponse({"prompt": "", "negative_prompt": ""})

    @app.get("/api/v1/samplers", **hidden)
    async def samplers() -> Response:
        return JSONResponse([])

    async def refuse(request: Request) -> Response:
        raise RequestError(404, "unknown_route", "this service has no plugins and saves no files")

    for name in _NO_PLUGINS:
        app.add_api_route(f"/api/v1/{name}", refuse, methods=["POST"], include_in_schema=False)


def _is_of_another_origin(request: Request) -> bool:
    """Return whether a page of another origin sent the request, as its browser says."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def _server_config(names: list[str], may_choose: bool) -> dict[str, Any]:
    return {
        "plugins": [],
        "modelInfos": [_model(name) for name in names],
        "removeBGModel": "",
        "removeBGModels": [],
        "realesrganModel": "",
        "realesrganModels": [],
        "interactiveSegModel": "",
        "interactiveSegModels": [],
        "enableFileManager": False,
        "enableAutoSaving": False,
        "enableControlnet": False,
        "controlnetMethod": None,
        "disableModelSwitch": not may_choose,
        "isDesktop": False,
        "samplers": [],
    }


def _model(name: str) -> dict[str, Any]:
    """Describe a model as one that fills holes without a prompt."""
    without = (
        "is_single_file_diffusers",
        "need_prompt",
        "support_strength",
        "support_outpainting",
        "support_lcm_lora",
        "support_controlnet",
        "support_brushnet",
        "support_powerpaint_v2",
    )
    lists: dict[str, Any] = {"controlnets": [], "brushnets": []}
    facts = {"name": name, "path": name, "model_type": "inpaint"}
    return {**facts, **lists, **dict.fromkeys(without, False)}


def _body(required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": required,
        "properties": {name: {"type": "string"} for name in required},
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
