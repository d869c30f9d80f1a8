"""The Python client of the endpoint, synchronous and asynchronous.

Inpainting changes nothing in the service, so repeating a request is always safe; see
:mod:`infill.pipeline.serving.service_client` for what is retried.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from infill.pipeline.errors import UserError
from infill.pipeline.serving.service_client import (
    Attempts,
    ClientConfig,
    ServiceClient,
    ServiceError,
)

__all__ = [
    "AsyncInpaintClient",
    "ClientConfig",
    "InpaintClient",
    "Inpainted",
    "ServiceError",
]

_PATH = "/v1/inpaint"


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


class InpaintClient(ServiceClient):
    """The client of one thread."""

    def inpaint(self, image: bytes, mask: bytes, **fields: str) -> Inpainted:
        """Inpaint one image.

        Args:
            image: a PNG, JPEG or WebP file.
            mask: a file of the same size.
            fields: fields of the form, such as ``model``, ``mode`` or ``output_format``.

        Raises:
            ServiceError: if the service refuses, or does not answer within ``retry_timeout_s``.
        """
        return _inpainted(self._send("POST", _PATH, files=_files(image, mask), data=fields))

    def models(self) -> list[dict[str, Any]]:
        """Return the versions that are served.

        Raises:
            UserError: if no service, or another one, answers at the URL.
        """
        try:
            response = self._http.get("/v1/models")
            response.raise_for_status()
            models: list[dict[str, Any]] = response.json()["models"]
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
        self._http = httpx.AsyncClient(limits=limits, **config.http_options())

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
        attempts = Attempts(self._config.retry_timeout_s)
        for _ in attempts:
            try:
                response = await self._http.post(_PATH, files=_files(image, mask), data=fields)
            except httpx.TransportError as error:
                attempts.failed(error)
            else:
                if not attempts.again(response):
                    return _inpainted(response)
            await asyncio.sleep(attempts.wait_s)
        raise attempts.last


def _files(image: bytes, mask: bytes) -> Mapping[str, bytes]:
    return {"image": image, "mask": mask}


def _inpainted(response: httpx.Response) -> Inpainted:
    return Inpainted(
        data=response.content,
        media_type=response.headers["content-type"],
        model=response.headers["x-infill-model"],
        hole_ratio=float(response.headers["x-infill-hole-ratio"]),
        mode=response.headers.get("x-infill-canvas", ""),
        scale=float(response.headers.get("x-infill-scale", 1.0)),
    )
