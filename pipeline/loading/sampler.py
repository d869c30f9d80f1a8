"""The sampler: a stateless order of samples, the same for any number of workers.

The samples of a global step are a function of (samples per shard, seed, step) alone: not of the
number of workers, of restarts, or of timing. Each epoch permutes the shards, cuts the list into
windows of W shards and permutes the samples inside each window. So a shard is needed during one
window only, at most W shards are in use at a time, and a sample's neighbours come from W shards,
which differ in each epoch: shuffle quality and memory grow with W.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infill.pipeline.errors import UserError
from infill.pipeline.masks import random_for

Rows = NDArray[np.int64]


class StatelessSampler:
    """Computes the samples of any step, without state.

    Memory: a few numbers per shard, and the rows of the last window used.

    Args:
        counts: samples per shard.
        seed: seed of the order.
        shuffle_window_shards: W, the shards whose samples are shuffled among each other.

    Raises:
        UserError: if there are no samples.
    """

    def __init__(self, counts: Sequence[int], seed: int, shuffle_window_shards: int) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.total = int(self.counts.sum())
        if not self.total:
            raise UserError("the shard set holds no samples; shard a folder that has pictures")
        self.first_rows = np.cumsum(self.counts) - self.counts
        self.seed, self.shuffle_window_shards = seed, shuffle_window_shards
        self._epoch, self._window = -1, (-1, -1)
        self._shards = self._starts = self._rows = np.empty(0, np.int64)

    def batch(
        self,
        step: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        visits: int = 1,
    ) -> list[tuple[int, int]]:
        """Return one rank's slice of a global step: (epoch, row of the manifest) per sample.

        Step s holds the positions [s G, (s + 1) G) of an endless sequence of epochs, G being the
        global batch size; rank r of R takes every R-th of them from the r-th on. A last partial
        batch continues in the next epoch, so all ranks have equal steps. With several visits every
        sample takes as many consecutive positions.
        """
        first = step * batch_size
        positions = np.arange(first + rank, first + batch_size, world_size) // visits
        return self._all_at(positions)

    def _all_at(self, positions: Rows) -> list[tuple[int, int]]:
        """Return :meth:`at` of each of ascending positions, vectorized where possible."""
        epoch, _ = self.at(int(positions[0]))
        window = self._window
        if self.at(int(positions[-1]))[0] != epoch or self._window != window:
            return [self.at(int(position)) for position in positions]
        offsets = positions - epoch * self.total - self._starts[window[1]]
        return [(epoch, row) for row in self._rows[offsets].tolist()]

    def at(self, position: int) -> tuple[int, int]:
        """Return the epoch and the row of the sample at a position of the endless sequence."""
        epoch, offset = divmod(position, self.total)
        if epoch != self._epoch:
            self._enter_epoch(epoch)
        window = int(np.searchsorted(self._starts, offset, side="right")) - 1
        if (epoch, window) != self._window:
            self._enter_window(epoch, window)
        return epoch, int(self._rows[offset - self._starts[window]])

    def position(self, epoch: int, row: int) -> int:
        """Return the position of a row in an epoch: the inverse of :meth:`at`.

        Divided by the global batch size it is the step, and the remainder is the position in it.
        """
        if not 0 <= row < self.total:
            raise IndexError(f"row {row} of a set of {self.total} samples")
        self._enter_epoch(epoch)
        shard = int(np.searchsorted(self.first_rows + self.counts, row, side="right"))
        window = int(np.flatnonzero(self._shards == shard)[0]) // self.shuffle_window_shards
        self._enter_window(epoch, window)
        offset = int(np.flatnonzero(self._rows == row)[0])
        return epoch * self.total + int(self._starts[window]) + offset

    def _enter_epoch(self, epoch: int) -> None:
        shards = random_for("order of shards", self.seed, epoch).permutation(len(self.counts))
        self._epoch, self._shards = epoch, shards[self.counts[shards] > 0]
        ends = np.cumsum(self.counts[self._shards])
        self._starts = np.concatenate(
            [[0], ends[self.shuffle_window_shards - 1 : -1 : self.shuffle_window_shards]]
        )

    def _enter_window(self, epoch: int, window: int) -> None:
        first = window * self.shuffle_window_shards
        shards = self._shards[first : first + self.shuffle_window_shards]
        spans = [np.arange(self.counts[s]) + self.first_rows[s] for s in shards]
        random = random_for("order of samples", self.seed, epoch, window)
        self._rows, self._window = random.permutation(np.concatenate(spans)), (epoch, window)
