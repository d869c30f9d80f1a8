"""Download the shards of the next shuffle windows while the current ones are read."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from infill.pipeline.errors import UserError
from infill.pipeline.loading.sampler import StatelessSampler, Window
from infill.pipeline.loading.shard_reader import ShardCache
from infill.pipeline.manifest import Manifest

DOWNLOADS = 2
"""Number of simultaneous downloads per training worker."""


class ShardPrefetcher:
    """Fetches a lane's next window into the node's cache as soon as the lane enters a window.

    So training does not wait at a window's end if fetching a window takes less time than reading
    one. The cache should hold two windows of every lane that the node reads.

    Args:
        manifest: of the set.
        cache: of the node.
        order: of the samples.
        rank: of the worker. Workers of a node have lanes in common: they begin at other shards.
    """

    def __init__(
        self, manifest: Manifest, cache: ShardCache, order: StatelessSampler, rank: int
    ) -> None:
        self.manifest, self.cache, self.order, self.rank = manifest, cache, order, rank
        self.entered: dict[int, Window] = {}
        self.pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards")

    def enter(self, samples: list[tuple[int, int]]) -> None:
        """Begin to fetch what follows the windows of samples, which are given by epoch and row."""
        begun: list[int] = []
        for window in self.order.windows(samples):
            before = self.entered.get(window.lane)
            if before is None:
                begun += self.order.shards(window)
            if before is None or window > before:
                self.entered[window.lane] = window
                begun += self.order.shards(self.order.following(window))
        turn = self.rank % len(begun) if begun else 0
        for shard in begun[turn:] + begun[:turn]:
            self.pool.submit(self._fetch, shard)

    def _fetch(self, shard: int) -> None:
        # Whoever reads the shard meets the same error, and reports it with the sample.
        with suppress(UserError, OSError):
            self.cache.path(self.manifest.shard_location(shard), self.manifest.shards[shard])

    def close(self) -> None:
        """Finish the current downloads, and drop the others."""
        self.pool.shutdown(wait=True, cancel_futures=True)
