"""The versions that are served, asked for once for many callers."""

import asyncio
import time

from infill.pipeline.serving.http.inpaint_service import Backend
from infill.pipeline.serving.replica.replica import ServedModel


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

    async def get(self) -> list[ServedModel]:
        """Return the versions; an answer that is awaited already serves every caller."""
        asked = self._asked
        old = asked is not None and asked.done() and time.monotonic() - self._at > self._fresh_s
        if asked is None or old or (asked.done() and (asked.cancelled() or asked.exception())):
            asked = self._asked = asyncio.ensure_future(self._ask())
        return await asyncio.shield(asked)

    async def _ask(self) -> list[ServedModel]:
        try:
            return await self._backend.describe()
        finally:
            self._at = time.monotonic()
