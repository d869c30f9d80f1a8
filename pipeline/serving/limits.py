"""Limits of a request, and of all requests together."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields, replace

REQUEST_BYTES_PER_PIXEL = 44
"""Memory that a request takes in an ingress for each pixel, at most: decoded, with its tiles and
predictions, and while it is encoded. Lossless WebP of noise takes most; the files are not in it."""


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Limits of requests: size, memory, time."""

    max_body_bytes: int = 32 * 2**20
    """Maximum size of a request's body in bytes, image and mask together."""
    max_pixels: int = 25_000_000
    """Maximum height times width of an image, as its header gives them."""
    max_pixels_inside: int = 50_000_000
    """Maximum number of pixels of all requests that are decoded at once, at up to 44 bytes each;
    further requests wait."""
    max_waiting: int = 32
    """Maximum number of requests inside the service; further ones get 503 with Retry-After."""
    request_timeout_s: float = 60.0
    """Timeout in seconds from the first byte of a request to its response; in a batch, of each
    pair."""
    max_batch_body_bytes: int = 256 * 2**20
    """Maximum size in bytes of a request with many pairs."""
    batch_timeout_s: float = 600.0
    """Timeout in seconds from the first byte of a request with many pairs to its last response."""
    pairs_at_once: int = 8
    """Number of pairs of such a request that are processed at once."""
    max_header_bytes: int = 32 * 2**10
    """Maximum size in bytes of a request's head: its line and headers."""
    header_timeout_s: float = 10.0
    """Timeout in seconds from the first byte of a request to the end of its head."""
    idle_timeout_s: float = 60.0
    """Seconds after which a connection without a request, or whose reader takes nothing, ends."""
    min_body_bytes_per_s: int = 1000
    """Minimum rate of a body, counted while the service waits for it."""
    body_grace_s: float = 10.0
    """Seconds that a body may be late by that rate."""
    max_connections: int = 1024
    """Maximum number of open connections of an ingress."""
    max_connections_per_caller: int = 256
    """Maximum number of open connections of one address; a new one replaces the one that has
    waited longest without a request."""
    max_body_bytes_inside: int = 2**30
    """Maximum size in bytes of all requests with one pair that are inside the service."""
    decode_processes: int = 2
    """Number of processes that decode images of more than a megapixel; one is killed when its
    request times out or its caller leaves. Each ingress has its share of them, at least one."""
    retry_after_s: int = 1
    """Value of Retry-After in a 503 response, in seconds."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) <= 0:
                raise ValueError(f"{item.name} must be positive, not {getattr(self, item.name)}")

    def of_one(self, ingresses: int) -> "LimitsConfig":
        """Return the limits of one of several ingresses: its share of memory and of processes.

        A share suffices for the largest accepted request. The number of requests inside is counted
        for all together.
        """
        return replace(
            self,
            max_pixels_inside=_share(self.max_pixels_inside, ingresses, self.max_pixels),
            max_body_bytes_inside=_share(
                self.max_body_bytes_inside, ingresses, self.max_body_bytes
            ),
            decode_processes=_share(self.decode_processes, ingresses, 1),
        )


def _share(total: int, parts: int, least: int) -> int:
    return max(total // parts, min(least, total))


class PixelBudget:
    """Limits the memory of decoded images; requests wait in order of arrival.

    Args:
        total: maximum number of pixels that are decoded at once.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def spend(self, pixels: int) -> AsyncIterator[None]:
        """Hold ``pixels`` of the budget; an image larger than the budget takes all of it."""
        pixels = min(pixels, self._total)
        await self._take(pixels)
        try:
            yield
        finally:
            self._free += pixels
            self._wake()

    async def _take(self, pixels: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, turn))
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was granted in the same moment
                self._free += pixels
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting:
            pixels, turn = self._waiting[0]
            if not turn.done():
                if pixels > self._free:
                    return
                self._free -= pixels
                turn.set_result(None)
            self._waiting.popleft()
