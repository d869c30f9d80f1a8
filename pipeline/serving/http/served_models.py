"""The versions that are served, asked for once for many callers."""

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from infill.pipeline.images import Pixels
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.replica.replica import GeneratedTile, ServedModel


class Backend(Protocol):
    """Predicts tiles: a replica in this process, or many behind a handle."""

    async def fill(
        self,
        wanted: str,
        image: Pixels,
        mask: Pixels,
        samples: int,
        seed: int | None,
        background: bool,
    ) -> GeneratedTile:
        """Predict one tile; see :meth:`infill.pipeline.serving.replica.replica.Replica.fill`."""
        ...

    async def describe(self) -> list[ServedModel]:
        """Return the versions that are served."""
        ...


class ServedModels:
    """The replicas' answer, remembered for a moment and shared among callers.

    Args:
        backend: asks a replica.
        aliases: further names, and the models that they mean.
        retry_after_s: seconds after which a caller tries again while no model answers.
        fresh_s: seconds for which an answer is passed on.
    """

    def __init__(
        self,
        backend: Backend,
        aliases: Mapping[str, str] | None = None,
        retry_after_s: int = 1,
        fresh_s: float = 0.5,
    ) -> None:
        self._backend, self._fresh_s = backend, fresh_s
        self._aliases, self._retry_after_s = dict(aliases or {}), retry_after_s
        self._asked: asyncio.Future[list[ServedModel]] | None = None
        self._at = -math.inf
        self._last: list[ServedModel] = []

    async def get(self) -> list[ServedModel]:
        """Return the versions; an answer that is awaited already serves every caller."""
        asked = self._asked
        old = asked is not None and asked.done() and self._age_s() > self._fresh_s
        if asked is None or old or (asked.done() and (asked.cancelled() or asked.exception())):
            asked = self._asked = asyncio.ensure_future(self._ask())
        return await asyncio.shield(asked)

    async def ready(self, within_s: float = 5.0) -> list[ServedModel]:
        """Return the versions.

        Args:
            within_s: seconds to wait for an answer.

        Raises:
            RequestError: 503 if no model answers.
        """
        served: list[ServedModel] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                served = await self.get()
        if not served:
            raise RequestError(
                503, "not_ready", "no model answers yet; try again", self._retry_after_s
            )
        return served

    async def find(self, wanted: str) -> list[ServedModel]:
        """Return the versions that a name, a version or an alias means; "" means the default.

        Raises:
            RequestError: 404 if there is none.
        """
        served = await self.get()
        meant = self.meant(wanted)
        found = [one for one in served if one.answers_to(meant)] if meant else served[:1]
        if not found:
            raise RequestError(404, "unknown_model", f"no model {wanted[:100]!r} is served")
        return found

    def meant(self, name: str) -> str:
        """Return the model that an alias means, and any other name as it is."""
        return self._aliases.get(name, name)

    async def known(self, within_s: float, fresh_s: float) -> list[ServedModel]:
        """Return the last answer at once, and renew it in the background.

        Args:
            within_s: seconds to wait for the first answer; none by then is an empty list.
            fresh_s: seconds after which it is renewed.
        """
        if self._last and self._age_s() <= fresh_s:
            return self._last
        renewed = asyncio.ensure_future(self.get())
        renewed.add_done_callback(_take_error)
        if not self._last:
            with suppress(TimeoutError, RequestError):
                async with asyncio.timeout(within_s):
                    return await renewed
        return self._last

    def _age_s(self) -> float:
        return time.monotonic() - self._at

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
