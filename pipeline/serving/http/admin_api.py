"""Routes for the operator of the service: they need the key of an admin."""

import asyncio
from typing import Any

from fastapi import FastAPI

from infill.pipeline.serving.http.auth import ApiKeyAuth, require_admin
from infill.pipeline.serving.http.jobs_api import JobService
from infill.pipeline.serving.http.openapi import ERROR_ANSWERS


def add_admin_routes(app: FastAPI, auth: ApiKeyAuth, jobs: JobService) -> None:
    """Add the routes to the application."""

    @app.get("/v1/admin/keys", summary="The API keys and their limits.", responses=ERROR_ANSWERS)
    async def keys() -> dict[str, Any]:
        require_admin()
        return {"keys": await auth.usage()}

    @app.get("/v1/admin/jobs", summary="The jobs of all keys.", responses=ERROR_ANSWERS)
    async def all_jobs() -> dict[str, Any]:
        require_admin()
        found = await asyncio.to_thread(jobs.store().newest)
        return {"jobs": [{**job.public(), "caller": job.caller} for job in found]}
