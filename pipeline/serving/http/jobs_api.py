"""Jobs: many pairs, or the images under a prefix, inpainted in the background.

A job keeps the version of the model that was served when it was created. Its results can be read
while it runs. A caller sees only the jobs of the own API key. A request with an ``Idempotency-Key``
may be repeated: it creates one job, as long as this job is kept.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.images import MEDIA_TYPES, Format, upright_size
from infill.pipeline.serving.errors import RequestError, image_errors_refused
from infill.pipeline.serving.http.auth import CALLER
from infill.pipeline.serving.http.batch_requests import read_many
from infill.pipeline.serving.http.forms import content_type, query_of
from infill.pipeline.serving.http.inpaint_service import InpaintService
from infill.pipeline.serving.http.openapi import (
    ERROR_ANSWERS,
    IDEMPOTENCY_HEADER,
    KEY_REUSED_ANSWER,
)
from infill.pipeline.serving.http.responses import LineStream, json_texts
from infill.pipeline.serving.http.schemas import RequestFields, check, json_object
from infill.pipeline.serving.jobs.files import JobFiles
from infill.pipeline.serving.jobs.idempotency import (
    HEADER,
    IdempotentRequest,
    RequestDigest,
    idempotency_key,
)
from infill.pipeline.serving.jobs.store import UNFINISHED, Job, JobStore, new_id
from infill.pipeline.serving.jobs.webhooks import check_webhook
from infill.pipeline.serving.replica.replica import version_info

JOBS_PATH = "/v1/jobs"
_GROWTH = 1.4  # of base64
_OPTIONS = ("model", "mode", "mask_polarity", "mask_threshold", "mask_channel", "output_format")


class PrefixJob(BaseModel):
    """The body of a job over a prefix, beside the options of ``/v1/inpaint``."""

    model_config = ConfigDict(extra="allow")

    folder: Annotated[str, Field(min_length=1, max_length=1000)]
    masks: Annotated[str, Field(max_length=1000)] = ""
    webhook: Annotated[str, Field(max_length=1000)] = ""


@dataclass(frozen=True)
class _NewJob:
    """A job that a request is about to create."""

    caller: str
    key: str
    """The request's ``Idempotency-Key``; empty without one."""
    id: str = field(default_factory=new_id)
    digest: RequestDigest = field(default_factory=RequestDigest)

    def request(self) -> IdempotentRequest | None:
        """Return the key with the digest so far; None without a key."""
        return IdempotentRequest(self.key, self.digest.value()) if self.key else None


class JobService:
    """Creates, shows and ends jobs for one application."""

    def __init__(self, service: InpaintService) -> None:
        self._service, self._config = service, service.config.jobs
        self._store: JobStore | None = None
        self._secret = self._config.secret()

    def store(self) -> JobStore:
        """Return the database.

        Raises:
            RequestError: 404 if the service takes no jobs.
        """
        if not self._config.folder:
            raise RequestError(
                404, "unknown_route", "this service takes no jobs: start it with --jobs.folder"
            )
        if self._store is None:
            self._store = JobStore(self._config)
        return self._store

    def files(self, identity: str) -> JobFiles:
        """Return the files of a job."""
        return JobFiles(storage.join(self._config.folder, identity))

    async def find(self, request: Request, identity: str) -> Job:
        """Return one of the caller's jobs; an admin's are those of all callers.

        Raises:
            RequestError: 404 if there is none of this id.
        """
        found = await asyncio.to_thread(self.store().get, identity)
        key = CALLER.get()
        admin = key is not None and key.admin
        if found is None or (found.caller != _caller(request) and not admin):
            raise RequestError(404, "unknown_job", "you have no job of this id")
        return found

    async def create(self, request: Request) -> tuple[Job, bool]:
        """Create the job of a request; return it, and whether an earlier request has created it.

        Raises:
            RequestError: if a field or file is wrong, the caller has too many jobs, or the
                ``Idempotency-Key`` was used for another request.
        """
        new = _NewJob(_caller(request), idempotency_key(request.headers.getlist(HEADER)))
        early = IdempotentRequest(new.key, "") if new.key else None
        await asyncio.to_thread(self.store().refuse_too_many, new.caller, early)
        prefix = content_type(request) == "application/json"
        try:
            job = await (self._from_prefix if prefix else self._from_pairs)(request, new)
        except BaseException:
            await asyncio.to_thread(self.files(new.id).remove)
            raise
        if repeated := job.id != new.id:
            await asyncio.to_thread(self.files(new.id).remove)
            if (key := CALLER.get()) is not None:
                await key.give_back()
        return job, repeated

    async def _from_prefix(self, request: Request, new: _NewJob) -> Job:
        query_of(request)
        values = json_object(await request.body())
        body = check(PrefixJob, values)
        new.digest.add(values)
        for name in ("folder", "masks"):
            location = getattr(body, name)
            if location and not self._config.allows(location):
                there = ", ".join(self._config.prefixes) or "none"
                raise RequestError(
                    403, "forbidden", f"field {name!r}: jobs may not read there; allowed: {there}"
                )
        fields = check(RequestFields, body.model_extra or {})
        locations = {"folder": body.folder, "masks": body.masks}
        return await self._add(new, fields, locations, body.webhook)

    async def _from_pairs(self, request: Request, new: _NewJob) -> Job:
        most = int(_GROWTH * self._service.config.limits.max_body_bytes)
        query = query_of(request, "webhook", *RequestFields.model_fields)
        webhook = query.pop("webhook", "")
        given = check(RequestFields, query) if query else None
        ids: list[str | int | None] = []
        async for numbered in read_many(request, most):
            pair, name = numbered.request, f"pair {numbered.line}"
            if numbered.id not in (None, numbered.line):
                name = f"pair {numbered.id!r}"[:100]
            if isinstance(pair, RequestError):
                raise RequestError(pair.status_code, pair.code, f"{name}: {pair.detail}")
            if len(ids) == self._config.max_pairs:
                raise RequestError(
                    413, "too_large", f"a job has at most {self._config.max_pairs:,} pairs"
                )
            if pair.mask is None:
                raise RequestError(400, "bad_request", f"{name}: a job's pair needs a mask")
            fields = pair.fields
            if given is not None and fields not in (given, RequestFields()):
                raise RequestError(
                    400, "bad_request", f"{name}: all pairs of a job have the same options"
                )
            given = given or fields
            await asyncio.to_thread(self._keep, new, len(ids), name, pair.image, pair.mask)
            ids.append(numbered.id)
        if not ids or given is None:
            raise RequestError(400, "bad_request", "the job has no pairs")
        new.digest.add([ids, webhook, given.model_dump()])
        await asyncio.to_thread(self.files(new.id).keep_ids, ids)
        return await self._add(new, given, {"pairs": len(ids)}, webhook)

    def _keep(self, new: _NewJob, number: int, name: str, image: bytes, mask: bytes) -> None:
        """Check the headers of a pair and write it."""
        limit = self._service.config.limits.max_pixels
        try:
            with image_errors_refused():
                upright_size(image, limit)
                upright_size(mask, limit, "mask")
        except RequestError as error:
            raise RequestError(error.status_code, error.code, f"{name}: {error.detail}") from error
        for data in (image, mask):
            new.digest.add(data)
        self.files(new.id).keep_pair(number, image, mask)

    async def _add(
        self,
        new: _NewJob,
        fields: RequestFields,
        locations: dict[str, Any],
        webhook: str,
    ) -> Job:
        require_options_of_jobs(fields)
        request = new.request()
        found = await asyncio.to_thread(self.store().created_by, new.caller, request)
        if found is not None:
            return found
        model = await self._model(fields.model)
        if (key := CALLER.get()) is not None:
            await key.charge(
                1, model["name"]
            )  # A job counts as one image, and has limits of its own.
        if webhook:
            await asyncio.to_thread(self._check_webhook, webhook)
        settings = {name: getattr(fields, name) for name in _OPTIONS} | locations
        return await asyncio.to_thread(
            self.store().add, new.id, new.caller, model, settings, webhook, request
        )

    async def _model(self, wanted: str) -> dict[str, str]:
        return version_info((await self._service.models.find(wanted))[0])

    def _check_webhook(self, url: str) -> None:
        if not self._secret:
            raise RequestError(
                400, "bad_request", "this service sends no webhooks: --jobs.webhook-secret-file"
            )
        try:
            check_webhook(url, self._config.private_webhooks)
        except UserError as error:
            raise RequestError(400, "bad_request", f"field 'webhook': {error}") from error

    async def lines(self, job: Job, images: bool) -> AsyncIterator[bytes]:
        """Yield the job's results as lines of JSON."""
        source = self.files(job.id).lines(images)
        while (line := await asyncio.to_thread(_next_line, source)) is not None:
            yield line


def require_options_of_jobs(fields: RequestFields) -> None:
    """Refuse fields that a job does not follow, as ``samples`` and ``quality``.

    Raises:
        RequestError: 400, naming the first one.
    """
    for name, field_of in type(fields).model_fields.items():
        if name not in _OPTIONS and getattr(fields, name) != field_of.default:
            raise RequestError(
                400, "bad_request", f"field {name!r}: jobs take {', '.join(_OPTIONS)}"
            )


def _next_line(source: Iterator[dict[str, Any]]) -> bytes | None:
    """Return the next result as a line of JSON; None after the last."""
    line = next(source, None)
    if line is None:
        return None
    data = line.pop("data", None)
    start = json.dumps(line).encode()
    if data is None:
        return start + b"\n"
    return b"".join([start[:-1], b', "image": ', *json_texts([data]), b"}\n"])


def _caller(request: Request) -> str:
    return str(getattr(request.state, "caller", ""))


def add_jobs_routes(app: FastAPI, jobs: JobService) -> None:
    """Add the routes of jobs to the application."""
    options: dict[str, Any] = {"response_class": Response, "responses": ERROR_ANSWERS}

    @app.post(
        JOBS_PATH,
        summary="Create a job of many pairs, or of a prefix.",
        response_class=Response,
        responses={**ERROR_ANSWERS, **KEY_REUSED_ANSWER},
        openapi_extra={"parameters": [IDEMPOTENCY_HEADER]},
    )
    async def create(request: Request) -> Response:
        job, repeated = await jobs.create(request)
        headers = {"Location": f"{JOBS_PATH}/{job.id}"}
        if repeated:
            headers["Idempotent-Replayed"] = "true"
        return JSONResponse(job.public(), 202, headers=headers)

    @app.get(JOBS_PATH, summary="The jobs of the caller, newest first.", **options)
    async def list_jobs(request: Request) -> Response:
        query_of(request)
        found = await asyncio.to_thread(jobs.store().of_caller, _caller(request))
        return JSONResponse({"jobs": [job.public() for job in found]})

    @app.get(JOBS_PATH + "/{job_id}", summary="The state of a job.", **options)
    async def show(request: Request, job_id: str) -> Response:
        return JSONResponse((await jobs.find(request, job_id)).public())

    @app.post(JOBS_PATH + "/{job_id}/cancel", summary="Cancel a job.", **options)
    async def cancel(request: Request, job_id: str) -> Response:
        job = await jobs.find(request, job_id)
        await asyncio.to_thread(jobs.store().cancel, job.id)
        return JSONResponse((await jobs.find(request, job_id)).public())

    @app.delete(JOBS_PATH + "/{job_id}", summary="Delete an ended job and its files.", **options)
    async def delete(request: Request, job_id: str) -> Response:
        job = await jobs.find(request, job_id)
        if job.status in UNFINISHED:
            raise RequestError(409, "job_unfinished", "the job has not ended: cancel it first")
        await asyncio.to_thread(jobs.files(job.id).remove)
        await asyncio.to_thread(jobs.store().delete, job.id)
        return Response(status_code=204)

    @app.get(JOBS_PATH + "/{job_id}/results", summary="The results so far, by line.", **options)
    async def results(request: Request, job_id: str) -> Response:
        job = await jobs.find(request, job_id)
        images = query_of(request, "images").get("images", "true").lower()
        if images not in ("true", "false"):
            raise RequestError(400, "bad_request", "parameter 'images' is neither true nor false")
        return LineStream(jobs.lines(job, images == "true"))

    @app.get(JOBS_PATH + "/{job_id}/results/{name:path}", summary="One composite.", **options)
    async def result(request: Request, job_id: str, name: str) -> Response:
        job = await jobs.find(request, job_id)
        data = await asyncio.to_thread(jobs.files(job.id).read, name)
        return Response(data, media_type=MEDIA_TYPES[_format(name)])


def _format(name: str) -> Format:
    suffix = name.rsplit(".", 1)[-1].lower()
    return {"png": "png", "webp": "webp"}.get(suffix, "jpeg")  # type: ignore[return-value]
