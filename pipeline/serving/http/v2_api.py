"""The Open Inference Protocol, version 2, as KServe's and Triton's clients call it.

A thin layer over :class:`InpaintService`: input ``image`` and ``mask``, output ``composite``, which
has the datatype of the image. The options of ``POST /v1/inpaint`` are ``parameters`` of a request.
"""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from infill.pipeline.images import MaskRule
from infill.pipeline.inference.pair_files import InpaintOptions
from infill.pipeline.serving.errors import RequestError, shortened
from infill.pipeline.serving.http.inpaint_service import InpaintResult, InpaintService
from infill.pipeline.serving.http.negotiation import JSON, require_acceptable
from infill.pipeline.serving.http.responses import facts_of
from infill.pipeline.serving.http.schemas import RequestFields, check, json_object
from infill.pipeline.serving.http.v2_tensors import (
    MAX_FILES,
    MAX_JSON_VALUES,
    Tensor,
    as_bytes,
    image_files,
    json_text,
    mask_files,
    output_tensor,
    read_tensor,
)
from infill.pipeline.serving.replica.replica import ServedModel

JSON_LENGTH = "inference-header-content-length"
OUTPUT = "composite"
_ANSWER: dict[str, Any] = {"response_class": Response, "tags": ["Open Inference Protocol"]}


@dataclass(frozen=True, kw_only=True)
class V2Request:
    """One inference request."""

    id: str
    tensors: dict[str, Tensor]
    parameters: dict[str, Any]
    binary: bool
    """Whether the output follows the JSON part of the response as bytes."""


def add_v2_routes(app: FastAPI, service: InpaintService) -> None:
    """Add the protocol's routes to the application."""
    _add_metadata(app, service)

    @app.post("/v2/models/{name}/infer", summary="Inpaint tensors or files.", **_ANSWER)
    async def infer(name: str, request: Request) -> Response:
        return await _infer(service, name, request)

    @app.post("/v2/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer_version(name: str, version: str, request: Request) -> Response:
        return await _infer(service, f"{name}@{version}", request)


def _add_metadata(app: FastAPI, service: InpaintService) -> None:
    @app.get("/v2", summary="The server's name and extensions.", **_ANSWER)
    async def server() -> Response:
        extensions = ["binary_tensor_data"]
        return JSONResponse({"name": "infill", "version": app.version, "extensions": extensions})

    @app.get("/v2/health/live", summary="The service is alive.", **_ANSWER)
    async def live() -> Response:
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready", summary="A model is loaded and answers.", **_ANSWER)
    async def ready() -> Response:
        await service.models.ready()
        return JSONResponse({"ready": True})

    @app.get("/v2/models/{name}", summary="A model's tensors and versions.", **_ANSWER)
    async def model(name: str) -> Response:
        return JSONResponse(_metadata(await service.models.find(name)))

    @app.get("/v2/models/{name}/versions/{version}", include_in_schema=False)
    async def model_version(name: str, version: str) -> Response:
        return JSONResponse(_metadata(await service.models.find(f"{name}@{version}")))

    @app.get("/v2/models/{name}/ready", summary="A model answers.", **_ANSWER)
    async def model_ready(name: str) -> Response:
        return JSONResponse({"name": (await service.models.find(name))[0].name, "ready": True})

    @app.get("/v2/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def version_ready(name: str, version: str) -> Response:
        found = await service.models.find(f"{name}@{version}")
        return JSONResponse({"name": found[0].name, "ready": True})


def _metadata(models: list[ServedModel]) -> dict[str, Any]:
    images = {"datatype": "UINT8", "shape": [-1, -1, -1, -1]}
    return {
        "name": models[0].name,
        "versions": [model.version for model in models],
        "platform": "infill",
        "inputs": [{"name": "image", **images}, {"name": "mask", **images}],
        "outputs": [{"name": OUTPUT, **images}],
    }


async def _infer(service: InpaintService, wanted: str, request: Request) -> Response:
    require_acceptable(request, JSON, "application/octet-stream")
    body, given = await request.body(), request.headers.get(JSON_LENGTH)
    asked = await asyncio.to_thread(_read, body, given)
    fields = check(RequestFields, {**asked.parameters, "model": wanted})
    options = fields.options("image/png")
    image = asked.tensors["image"]
    if image.datatype != "BYTES" and options.output_format != "png":
        raise RequestError(400, "bad_request", "output_format needs an image of datatype BYTES")
    pairs = await asyncio.to_thread(_pairs, asked, options, service.config.limits.max_pixels)
    return await _answer(service, asked, options, pairs)


def _read(body: bytes, json_length: str | None) -> V2Request:
    """Read a request, with or without raw bytes after its JSON part.

    Raises:
        RequestError: 400, naming the input or field.
    """
    whole = json_length is None or (json_length.isdecimal() and len(json_length) < 20)
    if not whole or int(json_length or 0) > len(body):
        raise RequestError(400, "bad_request", f"{JSON_LENGTH} is not a number of bytes here")
    end = len(body) if json_length is None else int(json_length)
    values, rest = json_object(body[:end], MAX_JSON_VALUES), body[end:]
    if unknown := values.keys() - {"id", "inputs", "outputs", "parameters"}:
        raise RequestError(
            400, "bad_request", f"field {shortened(min(unknown))!r}: options are 'parameters'"
        )
    inputs = values.get("inputs")
    if not isinstance(inputs, list):
        raise RequestError(400, "bad_request", "field 'inputs' is not a list")
    tensors: dict[str, Tensor] = {}
    for given in inputs:
        size = _parameters(given, "binary_data_size", "content_type").get("binary_data_size")
        if size is not None and (type(size) is not int or not 0 <= size <= len(rest)):
            raise RequestError(400, "bad_request", "binary_data_size is not a number of bytes here")
        tensor = read_tensor(given, None if size is None else rest[:size])
        if tensor.name not in ("image", "mask") or tensor.name in tensors:
            raise RequestError(
                400, "bad_request", f"input {tensor.name!r}: inputs are one 'image' and one 'mask'"
            )
        tensors[tensor.name] = tensor
        rest = rest[size or 0 :]
    if rest:
        raise RequestError(400, "bad_request", f"{len(rest):,} bytes belong to no input")
    if "image" not in tensors:
        raise RequestError(400, "bad_request", "input 'image' is missing")
    parameters = dict(_parameters(values))
    if "model" in parameters:
        raise RequestError(400, "bad_request", "field 'model': the model stands in the path")
    binary = _wants_binary(values.get("outputs"), parameters.pop("binary_data_output", False))
    identity = "" if values.get("id") is None else values["id"]
    if not isinstance(identity, str) or len(identity) > 100:
        raise RequestError(400, "bad_request", "field 'id' is not a text of up to 100 characters")
    return V2Request(id=identity, tensors=tensors, parameters=parameters, binary=binary)


def _parameters(given: Any, *names: str) -> dict[str, Any]:
    """Return an object's parameters, of which only ``names`` are read; of none, any."""
    found = given.get("parameters") if isinstance(given, dict) else None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RequestError(400, "bad_request", "field 'parameters' is not an object")
    if unread := found.keys() - set(names or found):
        name = shortened(min(unread))
        raise RequestError(400, "bad_request", f"parameter {name!r} of a tensor is not read here")
    return found


def _wants_binary(outputs: Any, default: Any) -> bool:
    """Return whether the output is requested as bytes, and refuse other outputs."""
    wanted = default
    if outputs:
        if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
            raise RequestError(400, "bad_request", f"the one output is {OUTPUT!r}")
        if outputs[0].get("name") != OUTPUT:
            raise RequestError(400, "bad_request", f"the one output is {OUTPUT!r}")
        wanted = _parameters(outputs[0], "binary_data").get("binary_data", default)
    if not isinstance(wanted, bool):
        raise RequestError(400, "bad_request", "parameter 'binary_data' is neither true nor false")
    return wanted


def _pairs(
    asked: V2Request, options: InpaintOptions, max_pixels: int
) -> list[tuple[bytes, bytes | None]]:
    """Return images and masks as files; one mask serves all images."""
    images = image_files(asked.tensors["image"], max_pixels)
    if "mask" not in asked.tensors:
        return [(image, None) for image in images]
    masks = mask_files(asked.tensors["mask"], options.mask_rule, max_pixels)
    if len(masks) not in (1, len(images)):
        raise RequestError(400, "bad_request", f"{len(images)} images and {len(masks)} masks")
    masks = masks * len(images) if len(masks) == 1 else masks
    return list(zip(images, masks, strict=True))


async def _answer(
    service: InpaintService,
    asked: V2Request,
    options: InpaintOptions,
    pairs: list[tuple[bytes, bytes | None]],
) -> Response:
    if len(pairs) * options.samples > MAX_FILES:
        raise RequestError(400, "bad_request", f"more than {MAX_FILES} composites are requested")
    mask = asked.tensors.get("mask")
    if mask is not None and mask.datatype != "BYTES":
        options = replace(options, mask_rule=MaskRule())  # applied already
    done = []
    for start in range(0, len(pairs), service.config.limits.pairs_at_once):
        some = pairs[start : start + service.config.limits.pairs_at_once]
        done += await _inpaint_some(service, options, some)
    image = asked.tensors["image"]
    files = [file for one in done for file in one.files]
    single = len(image.shape) < 4 and len(files) == 1
    limit = service.config.limits.max_pixels
    output = await asyncio.to_thread(output_tensor, OUTPUT, image, files, single, limit)
    return await asyncio.to_thread(_response, asked, done, output)


async def _inpaint_some(
    service: InpaintService, options: InpaintOptions, pairs: list[tuple[bytes, bytes | None]]
) -> list[InpaintResult]:
    """Inpaint pairs at once; if one fails, the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(service.inpaint(options, *pair)) for pair in pairs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _response(asked: V2Request, done: list[InpaintResult], output: Tensor) -> Response:
    model = done[0].model
    described: dict[str, Any] = {
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.shape),
    }
    values = {
        **({"id": asked.id} if asked.id else {}),
        "model_name": model.name,
        "model_version": model.version,
        "outputs": [described],
    }
    headers = dict(facts_of(*done))
    if not asked.binary:
        end = "}]}"  # of the output, which is the last value
        text = f'{json.dumps(values).removesuffix(end)}, "data": {json_text(output)}{end}'
        return Response(text, media_type=JSON, headers=headers)
    raw = as_bytes(output)
    described["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(values).encode()
    headers[JSON_LENGTH] = str(len(head))
    return Response(head + raw, media_type="application/octet-stream", headers=headers)
