"""The routes of the HTTP application."""

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from infill.pipeline.images import MEDIA_TYPES
from infill.pipeline.serving.errors import RequestError, shortened
from infill.pipeline.serving.http.admin_api import add_admin_routes
from infill.pipeline.serving.http.auth import ApiKeyAuth
from infill.pipeline.serving.http.batch_requests import answer_many, read_many, with_first
from infill.pipeline.serving.http.decoders import DecoderPool
from infill.pipeline.serving.http.error_shapes import error_response
from infill.pipeline.serving.http.forms import query_of
from infill.pipeline.serving.http.inpaint_service import HttpConfig, InpaintService
from infill.pipeline.serving.http.iopaint_api import add_iopaint_routes
from infill.pipeline.serving.http.jobs_api import JobService, add_jobs_routes
from infill.pipeline.serving.http.mask_api import add_mask_routes
from infill.pipeline.serving.http.methods import HeadAndOptions, PlainPaths, allowed_methods
from infill.pipeline.serving.http.middleware import BATCH_PATH, AdmissionMiddleware
from infill.pipeline.serving.http.models_api import add_models_routes
from infill.pipeline.serving.http.negotiation import JSON, require_acceptable, wants_json
from infill.pipeline.serving.http.openai_api import add_openai_routes
from infill.pipeline.serving.http.openapi import (
    ERROR_ANSWERS,
    LINES_ANSWER,
    PICTURE_ANSWER,
    batch_body,
    pair_body,
)
from infill.pipeline.serving.http.page_routes import add_page_routes, add_reference_route
from infill.pipeline.serving.http.progress_events import ProgressEvents, add_progress_routes
from infill.pipeline.serving.http.request_metrics import MEDIA_TYPE, RequestMetrics
from infill.pipeline.serving.http.responses import LINES, LineStream, respond
from infill.pipeline.serving.http.schemas import read_one
from infill.pipeline.serving.http.served_models import Backend
from infill.pipeline.serving.http.tracing import Tracing, TracingMiddleware, tracing_to
from infill.pipeline.serving.http.v2_api import add_v2_routes
from infill.pipeline.serving.limits import PixelBudget
from infill.pipeline.serving.node_counts import CountsThread, NodeCounts, ProcessNumber

_LONGEST_POLL_S = 25.0
_BASE64_GROWTH = 1.4  # four thirds, and the fields' names


def create_app(
    backend: Backend,
    config: HttpConfig,
    tracing: Tracing | None = None,
    process: ProcessNumber | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        backend: predicts canvases.
        config: limits, canvases and keys.
        tracing: records traces; by default as the configuration says.
        process: this process among those of the node that count together; None counts alone.
    """
    app = FastAPI(
        title="Infill",
        version="1",
        summary="Image and mask in, composite out.",
        docs_url=None,  # Swagger's page loads files from another host; ours does not.
        redoc_url=None,
    )
    metrics, counts = RequestMetrics(process), CountsThread(NodeCounts(process))
    auth = ApiKeyAuth(config.keys, config.keys_file, counts=counts)
    app.add_middleware(HeadAndOptions, within=app)
    app.add_middleware(
        AdmissionMiddleware,
        config=config.limits,
        auth=auth,
        metrics=metrics,
        counts=counts,
        allowed_hosts=config.allowed_hosts,
    )
    app.add_middleware(PlainPaths, within=app)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[
                "X-Request-ID",
                "X-Infill-Model",
                "X-Infill-Hole-Ratio",
                "X-Infill-Mask-Form",
                "X-Infill-Canvas",
                "X-Infill-Scale",
                "Retry-After",
                "Location",
                "Idempotent-Replayed",
            ],
        )
    if tracing is None and config.traces:
        tracing = tracing_to(config.traces)
    if tracing is not None:
        app.add_middleware(TracingMiddleware, tracing=tracing)
    app.add_exception_handler(HTTPException, _refused)
    service = InpaintService(
        backend,
        config,
        PixelBudget(config.limits.max_pixels_inside),
        metrics,
        DecoderPool(config.limits.decode_processes),
        tracing,
    )
    _add_inpaint(app, service)
    add_mask_routes(app, service)
    folder = None if process is None else process.folder
    events = ProgressEvents(folder, min(_LONGEST_POLL_S, config.limits.request_timeout_s / 2))
    add_progress_routes(app, events)
    add_iopaint_routes(app, service, ERROR_ANSWERS, events)
    add_openai_routes(app, service, ERROR_ANSWERS)
    add_models_routes(app, service, ERROR_ANSWERS)
    add_v2_routes(app, service)
    jobs = JobService(service)
    add_jobs_routes(app, jobs)
    add_admin_routes(app, auth, jobs)
    _add_state(app, service)
    add_reference_route(app)
    if config.web_app:
        app.mount("/", StaticFiles(directory=config.web_app, html=True))
    else:
        add_page_routes(app)
    return app


def _add_inpaint(app: FastAPI, service: InpaintService) -> None:
    @app.post(
        "/v1/inpaint",
        response_class=Response,
        responses={**PICTURE_ANSWER, **ERROR_ANSWERS},
        openapi_extra=pair_body(),
        summary="Fill the hole of one image.",
    )
    async def inpaint_one(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        wants_json(accept)  # Nothing is done for a caller who accepts nothing that is made here.
        asked = await read_one(request)
        options = replace(asked.fields.options(accept), background=_in_background(request))
        answer = await service.inpaint(options, asked.image, asked.mask)
        return await respond(answer, accept, request.state.request_id)

    @app.post(
        BATCH_PATH,
        response_class=Response,
        responses={**LINES_ANSWER, **ERROR_ANSWERS},
        openapi_extra=batch_body(),
        summary="Fill many images in one request.",
    )
    async def inpaint_many(request: Request) -> Response:
        require_acceptable(request, LINES, JSON, *MEDIA_TYPES.values())  # Of lines, or in them.
        query_of(request)
        most = int(_BASE64_GROWTH * service.config.limits.max_body_bytes)
        pairs = read_many(request, most)
        first = await anext(pairs, None)  # A wrong body is refused before the stream starts.
        accept, request_id = request.headers.get("accept", ""), request.state.request_id
        return LineStream(answer_many(service, with_first(first, pairs), accept, request_id))


def _in_background(request: Request) -> bool:
    priority = request.headers.get("x-infill-priority", "interactive").lower()
    if priority not in ("batch", "interactive"):
        raise RequestError(400, "bad_request", "X-Infill-Priority is neither batch nor interactive")
    return priority == "batch"


def _add_state(app: FastAPI, service: InpaintService) -> None:
    @app.get("/healthz", summary="The service is alive.")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="A model is loaded and answers.", responses=ERROR_ANSWERS)
    async def ready() -> dict[str, Any]:
        served = await service.models.ready()
        return {"status": "ready", "models": [model.label for model in served]}

    @app.get("/metrics", summary="Counters for Prometheus.", response_class=Response)
    async def counters() -> Response:
        return Response(await asyncio.to_thread(service.metrics.text), media_type=MEDIA_TYPE)


async def _refused(request: Request, error: Exception) -> Response:
    """Give every error the documented shape, including those of the framework."""
    assert isinstance(error, HTTPException)
    if not isinstance(error, RequestError):
        code = "unknown_route" if error.status_code in (404, 405) else "bad_request"
        allowed = allowed_methods(request.scope) if error.status_code in (404, 405) else []
        detail = shortened(str(error.detail))
        if allowed:
            detail = f"this path allows {', '.join(allowed)}"
        elif error.status_code == 404:
            detail = "there is nothing under this path: /docs lists the paths"
        error = RequestError(405 if allowed else error.status_code, code, detail)
        if allowed:
            error.headers = {"Allow": ", ".join(allowed)}
    request.state.code = error.code
    return error_response(error, request.state.request_id, request.url.path)
