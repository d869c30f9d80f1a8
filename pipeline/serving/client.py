"""The Python client of the endpoint, synchronous and asynchronous.

Temporary failures are retried: a full queue (503 or 429, after the seconds of Retry-After), a
replica being replaced, a broken connection. Inpainting changes nothing in the service, so repeating
it is always safe. A defect of the service (500) and a body that arrived too slowly (408) are
retried only a few times. Any other error raises :class:`ServiceError` with the service's own code
and sentence.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from infill.pipeline.errors import UserError

_PASSING = (429, 502, 503, 504)
_PERHAPS_PASSING = (408, 500)
_FEW = 3


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """The address of the endpoint, the API key and the timeouts."""

    url: str = "http://127.0.0.1:8000"
    """Base URL of the service."""
    api_key: str = field(default="", repr=False)
    """API key, sent as a bearer token; empty if the service needs none."""
    timeout_s: float = 120.0
    """Timeout of one attempt in seconds."""
    batch: bool = False
    """Whether interactive requests of others go first in the service."""
    patience_s: float = 300.0
    """Timeout of all attempts of one request together, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Inpainted:
    """A response of the service."""

    data: bytes
    """The composite, encoded as a file."""
    media_type: str
    model: str
    """The version that predicted it, such as ``spn@3 (0a1b2c3d4e5f)``."""
    hole_ratio: float
    mode: str = ""
    """How the network saw the image, such as ``crop`` or ``resize``."""
    scale: float = 1.0
    """The size at which it saw the hole, as a share of its own; below 1 the prediction was
    enlarged."""


class ServiceError(Exception):
    """The service refused a request, and retries would not help.

    Args:
        status: the HTTP status.
        code: the service's code, see :mod:`infill.pipeline.serving.errors`.
        message: its sentence.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message

    def __str__(self) -> str:
        """Return the sentence and the code."""
        return f"{self.message} ({self.code})"


class InpaintClient:
    """The client of one thread."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._http = httpx.Client(**http_options(config))

    def __enter__(self) -> "InpaintClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._http.close()

    def inpaint(self, image: bytes, mask: bytes, **fields: str) -> Inpainted:
        """Inpaint one image.

        Args:
            image: a PNG, JPEG or WebP file.
            mask: a file of the same size.
            fields: fields of the form, such as ``model``, ``mode`` or ``output_format``.

        Raises:
            ServiceError: if the service refuses, or does not answer within ``patience_s``.
        """
        attempts = _Attempts(self._config.patience_s)
        for _ in attempts:
            try:
                answer = self._http.post("/v1/inpaint", files=_files(image, mask), data=fields)
            except httpx.TransportError as error:
                attempts.failed(error)
            else:
                if not attempts.again(answer):
                    return _inpainted(answer)
            time.sleep(attempts.wait_s)
        raise attempts.last

    def models(self) -> list[dict[str, Any]]:
        """Return the versions that are served.

        Raises:
            UserError: if no service, or another one, answers at the URL.
        """
        try:
            answer = self._http.get("/v1/models")
            answer.raise_for_status()
            models: list[dict[str, Any]] = answer.json()["models"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
            raise UserError(
                f"no inpainting service answers at {self._config.url} ({error}); "
                "start one with `python jobs/serve.py`"
            ) from error
        return models


class AsyncInpaintClient:
    """The client of many requests at once, on one event loop."""

    def __init__(self, config: ClientConfig, connections: int) -> None:
        self._config = config
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(limits=limits, **http_options(config))

    async def __aenter__(self) -> "AsyncInpaintClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def inpaint(self, image: bytes, mask: bytes, **fields: str) -> Inpainted:
        """Inpaint one image; see :meth:`InpaintClient.inpaint`."""
        attempts = _Attempts(self._config.patience_s)
        for _ in attempts:
            try:
                answer = await self._http.post(
                    "/v1/inpaint", files=_files(image, mask), data=fields
                )
            except httpx.TransportError as error:
                attempts.failed(error)
            else:
                if not attempts.again(answer):
                    return _inpainted(answer)
            await asyncio.sleep(attempts.wait_s)
        raise attempts.last


class _Attempts:
    """Retries with exponential backoff."""

    def __init__(self, patience_s: float) -> None:
        self._deadline = time.monotonic() + patience_s
        self._backoff_s = 0.1
        self._doubtful = 0
        self.wait_s = 0.0
        self.last: ServiceError = ServiceError(0, "not_ready", "no attempt was made")

    def __iter__(self) -> Iterator[int]:
        number = 0
        while number == 0 or time.monotonic() + self.wait_s < self._deadline:
            yield number
            number += 1

    def failed(self, error: httpx.TransportError) -> None:
        """Record an attempt without a response."""
        self.last = ServiceError(0, "not_ready", f"no answer: {error or type(error).__name__}")
        self._back_off(0)

    def again(self, answer: httpx.Response) -> bool:
        """Return whether a response calls for another attempt, and record it."""
        self._doubtful += answer.status_code in _PERHAPS_PASSING
        doubtful = answer.status_code in _PERHAPS_PASSING and self._doubtful < _FEW
        if not doubtful and answer.status_code not in _PASSING:
            return False
        self.last = refusal(answer)
        given = answer.headers.get("retry-after", "")
        self._back_off(float(given) if given.isdigit() else 0)
        return True

    def _back_off(self, least_s: float) -> None:
        self.wait_s = max(least_s, self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, 5.0)


def http_options(config: ClientConfig) -> dict[str, Any]:
    """Return the options of an HTTP client: base URL, key and timeout."""
    headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
    if config.batch:
        headers["X-Infill-Priority"] = "batch"
    return {"base_url": config.url, "headers": headers, "timeout": config.timeout_s}


def _files(image: bytes, mask: bytes) -> Mapping[str, bytes]:
    return {"image": image, "mask": mask}


def _inpainted(answer: httpx.Response) -> Inpainted:
    if answer.status_code != 200:
        raise refusal(answer)
    return Inpainted(
        data=answer.content,
        media_type=answer.headers["content-type"],
        model=answer.headers["x-infill-model"],
        hole_ratio=float(answer.headers["x-infill-hole-ratio"]),
        mode=answer.headers.get("x-infill-canvas", ""),
        scale=float(answer.headers.get("x-infill-scale", 1.0)),
    )


def refusal(answer: httpx.Response) -> ServiceError:
    """Read the documented error of a response; the response of a proxy may have another shape."""
    try:
        error = answer.json()["error"]
        return ServiceError(answer.status_code, error["code"], error["message"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(answer.status_code, "internal", f"status {answer.status_code}")
