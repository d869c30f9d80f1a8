"""The versions that are served, asked for once for many callers."""

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from infill.pipeline.images import Pixels
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.replica.replica import GeneratedTile, ServedModel


class Backend(Protocol):
    """Predicts canvases: a replica in this process, or many behind a handle."""

    async def fill(
        self,
        wanted: str,
        image: Pixels,
        mask: Pixels,
        samples: int,
        seed: int | None,
        background: bool,
    ) -> GeneratedTile:
        """Predict one canvas; see :meth:`infill.pipeline.serving.replica.replica.Replica.fill`."""
        ...

    async def describe(self) -> list[ServedModel]:
        """Return the versions that are served."""
        ...


class ServedModels:
    """Remembers the replica's answer for a moment, and shares it among callers.

    Args:
        backend: asks a replica.
        fresh_s: seconds for which an answer is passed on.
    """

    def __init__(self, backend: Backend, fresh_s: float = 0.5) -> None:
        self._backend, self._fresh_s = backend, fresh_s
        self._asked: asyncio.Future[list[ServedModel]] | None = None
        self._at = 0.0
        self._last: list[ServedModel] = []

    async def get(self) -> list[ServedModel]:
        """Return the versions; an answer that is awaited already serves every caller."""
        asked = self._asked
        old = asked is not None and asked.done() and time.monotonic() - self._at > self._fresh_s
        if asked is None or old or (asked.done() and (asked.cancelled() or asked.exception())):
            asked = self._asked = asyncio.ensure_future(self._ask())
        return await asyncio.shield(asked)

    async def known(self, within_s: float) -> list[ServedModel]:
        """Return the last answer at once, and renew it in the background.

        Args:
            within_s: seconds to wait for the first answer; none by then is an empty list.
        """
        renewed = asyncio.ensure_future(self.get())
        renewed.add_done_callback(_take_error)
        if not self._last:
            with suppress(TimeoutError, RequestError):
                async with asyncio.timeout(within_s):
                    return await renewed
        return self._last

    async def _ask(self) -> list[ServedModel]:
        try:
            self._last = await self._backend.describe()
            return self._last
        finally:
            self._at = time.monotonic()


def _take_error(renewed: asyncio.Future[list[ServedModel]]) -> None:
    """Take the error of a renewal that nobody awaits; the next request renews again."""
    if not renewed.cancelled():
        renewed.exception()
