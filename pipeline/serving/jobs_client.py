"""Jobs of many images, by the Python client: create, follow, read, cancel."""

import base64
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from infill.pipeline.serving.service_client import ServiceClient, no_answer, refusal

_ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """The state of a job."""

    id: str
    status: str
    """"queued", "running", "done", "failed" or "cancelled"."""
    total: int
    """Number of its images; 0 until they are listed."""
    done: int
    """Number of images that are finished, with or without a composite."""
    failed: int
    error: str
    """Why the job as a whole failed."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _ENDED


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of one image."""

    id: str | int
    """The id of its pair, or its name under the prefix."""
    data: bytes
    """The composite, encoded as a file; empty if it failed."""
    error: str
    """Why there is no composite; empty if there is one."""


class JobsClient(ServiceClient):
    """Creates, follows and reads jobs; the client of one thread."""

    def create(
        self, pairs: Iterable[tuple[str, bytes, bytes]], webhook: str = "", **fields: str
    ) -> JobState:
        """Create a job of pairs.

        Args:
            pairs: id, image and mask of each; the files are PNG, JPEG or WebP.
            webhook: URL that is called when the job has ended.
            fields: options, such as ``model``, ``mode`` or ``output_format``.

        Raises:
            ServiceError: if the service refuses, or does not answer within ``retry_timeout_s``.
        """
        lines = b"".join(_line(*pair) for pair in pairs)
        options = {**fields, **({"webhook": webhook} if webhook else {})}
        return self._create("application/x-ndjson", content=lines, params=options)

    def create_from(
        self, folder: str, masks: str = "", webhook: str = "", **fields: str
    ) -> JobState:
        """Create a job of all images under a prefix that the service allows.

        Args:
            folder: the images, such as ``s3://photos/2024``.
            masks: folder of the masks; empty if each lies beside its image (name_mask.png).
            webhook: URL that is called when the job has ended.
            fields: options, as of :meth:`create`.

        Raises:
            ServiceError: as of :meth:`create`.
        """
        body = {"folder": folder, "masks": masks, "webhook": webhook, **fields}
        return self._create("application/json", content=json.dumps(body).encode())

    def _create(self, content_type: str, **body: Any) -> JobState:
        """Create a job; the key makes a repeated request safe."""
        headers = {"Content-Type": content_type, "Idempotency-Key": uuid.uuid4().hex}
        return _state(self._send("POST", "/v1/jobs", headers=headers, **body))

    def get(self, job_id: str) -> JobState:
        """Return the state of a job.

        Raises:
            ServiceError: if there is none of this id.
        """
        return _state(self._send("GET", f"/v1/jobs/{job_id}"))

    def wait(self, job_id: str, timeout_s: float = 3600.0, every_s: float = 1.0) -> JobState:
        """Wait until a job has ended.

        Raises:
            TimeoutError: if it has not after ``timeout_s`` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not (state := self.get(job_id)).ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} has not ended within {timeout_s:g} s")
            time.sleep(every_s)
        return state

    def cancel(self, job_id: str) -> JobState:
        """Cancel a job; its results so far stay."""
        return _state(self._send("POST", f"/v1/jobs/{job_id}/cancel"))

    def delete(self, job_id: str) -> None:
        """Delete an ended job and its files."""
        self._send("DELETE", f"/v1/jobs/{job_id}", repeatable=False)

    def results(self, job_id: str) -> Iterator[JobResult]:
        """Yield the results of a job that are there.

        Raises:
            ServiceError: if there is no such job, or the connection breaks.
        """
        try:
            with self._http.stream("GET", f"/v1/jobs/{job_id}/results") as response:
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                for line in response.iter_lines():
                    yield _result(json.loads(line))
        except httpx.TransportError as error:
            raise no_answer(error) from error


def _line(identity: str, image: bytes, mask: bytes) -> bytes:
    files = {"image": image, "mask": mask}
    encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return json.dumps({"id": identity, **encoded}).encode() + b"\n"


def _result(values: Mapping[str, Any]) -> JobResult:
    return JobResult(
        id=values["id"],
        data=base64.b64decode(values.get("image", "")),
        error=values.get("error", ""),
    )


def _state(response: httpx.Response) -> JobState:
    values = response.json()
    plain = {name: values[name] for name in ("id", "status", "error")}
    return JobState(**plain, **values["progress"])
