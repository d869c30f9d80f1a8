"""Dynamic batching: requests of one shape share a forward pass.

A batch is formed when the network becomes free, from the waiting items: those of the shape that has
waited longest, up to its limit. Serve's own ``@serve.batch`` closes a batch by the clock, even
while the network is busy, and mixes shapes; a slow network would then compute many small batches.
Requests of disconnected clients are dropped before they are computed. Interactive items go before
background items, also within a batch; every eighth batch goes by age alone, so none waits forever.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Waiting(Generic[Item, Result]):
    number: int
    background: bool
    item: Item
    answer: "asyncio.Future[Result]"


_BY_AGE_EVERY = 8


class Batcher(Generic[Key, Item, Result]):
    """Collects single items into batches of one key; runs on one event loop.

    Args:
        compute: returns one result per item; called for ``at_once`` batches at a time.
        max_size: number of items of a key in a full batch.
        wait_s: batching timeout: seconds that the first item waits while nothing is computed.
        at_once: number of batches that are computed concurrently.
    """

    def __init__(
        self,
        compute: Callable[[Key, Sequence[Item]], Awaitable[Sequence[Result]]],
        max_size: Callable[[Key], int],
        wait_s: float,
        at_once: int = 1,
    ) -> None:
        self._compute = compute
        self._max_size = max_size
        self._wait_s = wait_s
        self._waiting: dict[Key, deque[_Waiting[Item, Result]]] = {}
        self._count = 0
        self._batches = 0
        self._at_once = at_once
        self._working = 0
        self._workers: set[asyncio.Task[None]] = set()  # The loop holds no references.

    async def submit(self, key: Key, item: Item, background: bool = False) -> Result:
        """Return the item's result, computed together with others of the same key.

        Args:
            key: what the items of a batch have in common.
            item: the input.
            background: whether items that are not so go first.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._count += 1
        self._waiting.setdefault(key, deque()).append(
            _Waiting(self._count, background, item, answer)
        )
        if self._working < self._at_once:
            self._working += 1
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await answer

    async def _work(self) -> None:
        """Compute batch after batch until nothing waits."""
        try:
            await asyncio.sleep(self._wait_s)
            while self._waiting:
                self._batches += 1
                by_age = self._batches % _BY_AGE_EVERY == 0
                key = min(self._waiting, key=lambda k: _rank(self._waiting[k], by_age))
                if batch := self._take(key, by_age):
                    await self._answer(key, batch)
        finally:
            self._working -= 1

    def _take(self, key: Key, by_age: bool) -> list[_Waiting[Item, Result]]:
        # A finished answer is a cancelled one: the client has disconnected.
        queue = [entry for entry in self._waiting.pop(key) if not entry.answer.done()]
        most = max(self._max_size(key), 1)
        ranked = queue if by_age else sorted(queue, key=lambda entry: entry.background)
        batch = ranked[:most]
        taken = {entry.number for entry in batch}
        if rest := [entry for entry in queue if entry.number not in taken]:
            self._waiting[key] = deque(rest)
        return batch

    async def _answer(self, key: Key, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._compute(key, [entry.item for entry in batch])
        except Exception as error:  # every caller gets it
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(error)
            return
        for entry, result in zip(batch, results, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(result)


def _rank(queue: Sequence[_Waiting[Any, Any]], by_age: bool) -> tuple[bool, int]:
    """Return when a key's turn is: interactive items first, then by age; the queue is not empty."""
    if by_age:
        return False, queue[0].number
    return min((entry.background, entry.number) for entry in queue)
