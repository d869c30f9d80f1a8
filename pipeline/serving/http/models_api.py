"""The models of the service: our own description, and the list of OpenAI's clients in one."""

from typing import Any

from fastapi import FastAPI

from infill.pipeline.images import MEDIA_TYPES
from infill.pipeline.serving.http.inpaint_service import InpaintService
from infill.pipeline.serving.http.responses import public
from infill.pipeline.serving.http.schemas import MAX_SAMPLES
from infill.pipeline.serving.replica.replica import ServedModel


def add_models_routes(
    app: FastAPI, service: InpaintService, answers: dict[int | str, dict[str, Any]]
) -> None:
    """Add the routes to the application."""

    @app.get("/v1/models", summary="The versions that are served.", responses=answers)
    async def models() -> dict[str, Any]:
        served = await service.models.get()
        described = [describe(service, model) for model in served]
        ids = [model.reference if _is_name(model.reference) else model.name for model in served]
        listed = [_listed(name) for name in dict.fromkeys((*ids, *service.config.model_names))]
        return {"object": "list", "data": listed, "models": described}

    @app.get("/v1/models/{name:path}", summary="One version.", responses=answers)
    async def model(name: str) -> dict[str, Any]:
        return {**_listed(name), **describe(service, (await service.models.find(name))[0])}


def describe(service: InpaintService, model: ServedModel) -> dict[str, Any]:
    """Return the public facts on a model.

    Returns:
        Name, version, reference and digest; ``image_size_px`` it was trained at, whether it makes
        several samples and how many at most, the formats that are read and written, its licence
        (null if unknown), and the other names it answers to.
    """
    aliases = service.config.model_names
    several = model.several_samples
    return {
        **public(model),
        "architecture": model.architecture,
        "image_size_px": model.image_size_px or None,
        "several_samples": several,
        "max_samples": MAX_SAMPLES if several else 1,
        "input_formats": list(MEDIA_TYPES),
        "output_formats": list(MEDIA_TYPES),
        "licence": service.config.licence_of(model.name),
        "aliases": [alias for alias, wanted in aliases.items() if model.answers_to(wanted)],
    }


def _is_name(reference: str) -> bool:
    return "/" not in reference


def _listed(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "infill"}
