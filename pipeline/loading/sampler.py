"""The sampler: a stateless order of samples, the same for any number of workers.

The samples of a global step are a function of (samples per shard, seed, lanes, step) alone: not of
the number of workers, of restarts, or of timing. Each epoch permutes the shards and deals them to K
lanes. Each lane cuts its list into windows of W shards and permutes the samples inside each window;
the epoch merges the lanes. So a shard is needed during one window only, at most K x W shards are in
use at a time, and a sample's neighbours come from K x W shards, which differ in each epoch: shuffle
quality and memory grow with K x W. Inside a batch the samples are sorted by lane, so that a worker
needs the shards of its own lanes only.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infill.pipeline.errors import UserError
from infill.pipeline.loading.config import BatchConfig
from infill.pipeline.loading.lanes import Merge, deal
from infill.pipeline.masks import random_for

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One lane of an epoch."""

    shards: Rows
    """Its shards, in the order in which they are read."""
    starts: Rows
    """Index in the lane of each window's first sample."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """How an epoch's shards are dealt and merged."""

    epoch: int
    lanes: tuple[Lane, ...]
    merge: Merge
    lane_of: Rows
    """Lane of each shard; -1 if it has no samples."""
    position_of: Rows
    """Place of each shard in its lane."""


class Window(NamedTuple):
    """Shards of a lane whose samples are shuffled together."""

    epoch: int
    lane: int
    number: int


class Picks(NamedTuple):
    """Positions of an order: for each its epoch, its lane, and its index in the lane."""

    epochs: Rows
    lanes: Rows
    indices: Rows

    def take(self, chosen: Rows) -> "Picks":
        """Return some of the picks."""
        return Picks(*(values[chosen] for values in self))


def order_of(counts: Sequence[int], config: BatchConfig) -> "StatelessSampler":
    """Return the order of a set's samples under a configuration.

    Raises:
        UserError: if there are no samples.
    """
    return StatelessSampler(counts, config.seed, config.shuffle_window_shards, config.shuffle_lanes)


class StatelessSampler:
    """Computes the samples of any step, without state.

    Memory: a few numbers per shard, and the rows of the windows in use.

    Args:
        counts: samples per shard.
        seed: seed of the order.
        shuffle_window_shards: W, the shards of a lane whose samples are shuffled among each other.
        lanes: K, at most as many as there are shards with samples. One lane is the order of
            earlier releases.

    Raises:
        UserError: if there are no samples.
    """

    def __init__(
        self, counts: Sequence[int], seed: int, shuffle_window_shards: int, lanes: int = 1
    ) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.total = int(self.counts.sum())
        if not self.total:
            raise UserError("the shard set holds no samples; shard a folder that has images")
        self.first_rows = np.cumsum(self.counts) - self.counts
        self.seed, self.shuffle_window_shards = seed, shuffle_window_shards
        self.lanes = min(lanes, int(np.count_nonzero(self.counts)))
        self._orders: OrderedDict[int, EpochOrder] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int, int], Rows] = OrderedDict()

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
        global batch size, sorted by lane; :meth:`slots` are the rank's. A last partial batch
        continues in the next epoch, so all ranks have equal steps. With several visits every sample
        takes as many consecutive positions.
        """
        first = step * batch_size
        slots = self.slots(batch_size, rank, world_size)
        if self.lanes == 1:  # positions are in order: no others need be computed
            return self._all_at((first + slots) // visits)
        picks = self._picks(first // visits, -(-(first + batch_size) // visits))
        order = np.argsort(picks.lanes, kind="stable")
        return self._rows(picks.take(order[slots // visits]))

    def slots(self, batch_size: int, rank: int, world_size: int) -> Rows:
        """Return the positions in a global batch of one rank's samples.

        With several lanes they are consecutive, so that a rank has neighbouring lanes; with one
        lane rank r of R has every R-th, as in earlier releases.
        """
        if self.lanes == 1:
            return np.arange(rank, batch_size, world_size)
        share = batch_size // world_size
        return np.arange(rank * share, (rank + 1) * share)

    def at(self, position: int) -> tuple[int, int]:
        """Return the epoch and the row of the sample at a position of the endless sequence."""
        return self.span(position, position + 1)[0]

    def position(self, epoch: int, row: int) -> int:
        """Return the position of a row in an epoch: the inverse of :meth:`at`.

        Divided by the global batch size it is the step, and the remainder is the position in it.
        """
        if not 0 <= row < self.total:
            raise IndexError(f"row {row} of a set of {self.total} samples")
        order = self._epoch(epoch)
        shard = self._shard(np.array([row]))
        lane, window = int(order.lane_of[shard][0]), int(self._window_of(order, shard)[0])
        inside = int(np.flatnonzero(self._window(order, lane, window) == row)[0])
        index = int(order.lanes[lane].starts[window]) + inside
        return epoch * self.total + order.merge.position(lane, index)

    def windows(self, samples: Sequence[tuple[int, int]]) -> list[Window]:
        """Return the windows of samples, given by epoch and row: one for each lane they are in."""
        found: dict[int, Window] = {}
        epochs, rows = np.asarray(samples, np.int64).T
        for epoch in np.unique(epochs).tolist():
            order, shards = self._epoch(epoch), self._shard(rows[epochs == epoch])
            lanes, windows = order.lane_of[shards], self._window_of(order, shards)
            for lane in np.unique(lanes).tolist():
                found[lane] = Window(epoch, lane, int(windows[lanes == lane].max()))
        return list(found.values())

    def following(self, window: Window) -> Window:
        """Return the window that a lane reads after one, in the next epoch after its last."""
        epoch, lane, number = window
        last = len(self._epoch(epoch).lanes[lane].starts) - 1
        return Window(epoch, lane, number + 1) if number < last else Window(epoch + 1, lane, 0)

    def shards(self, window: Window) -> list[int]:
        """Return the shards of a window."""
        first = window.number * self.shuffle_window_shards
        lane = self._epoch(window.epoch).lanes[window.lane]
        return [*map(int, lane.shards[first : first + self.shuffle_window_shards])]

    def _shard(self, rows: Rows) -> Rows:
        return np.searchsorted(self.first_rows + self.counts, rows, side="right")

    def _window_of(self, order: EpochOrder, shards: Rows) -> Rows:
        return order.position_of[shards] // self.shuffle_window_shards

    def span(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return :meth:`at` of each of the positions [first, last)."""
        return self._rows(self._picks(first, last))

    def _all_at(self, positions: Rows) -> list[tuple[int, int]]:
        """Return :meth:`at` of each of ascending positions."""
        picks = self._picks(int(positions[0]), int(positions[-1]) + 1)
        return self._rows(picks.take(positions - positions[0]))

    def _picks(self, first: int, last: int) -> Picks:
        """Return what stands at the positions [first, last)."""
        parts = []
        for epoch in range(first // self.total, (last - 1) // self.total + 1):
            start = epoch * self.total
            begin, end = max(first - start, 0), min(last - start, self.total)
            lanes, indices = self._epoch(epoch).merge.between(begin, end)
            parts.append((np.full(end - begin, epoch), lanes, indices))
        return Picks(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _rows(self, picks: Picks) -> list[tuple[int, int]]:
        """Return epoch and row of the manifest of each pick."""
        rows = np.empty(len(picks.lanes), np.int64)
        for epoch in np.unique(picks.epochs).tolist():
            order, at = self._epoch(epoch), picks.epochs == epoch
            for lane in np.unique(picks.lanes[at]).tolist():
                here = np.flatnonzero(at & (picks.lanes == lane))
                starts = order.lanes[lane].starts
                windows = np.searchsorted(starts, picks.indices[here], side="right") - 1
                for window in np.unique(windows).tolist():
                    chosen = here[windows == window]
                    held = self._window(order, lane, window)
                    rows[chosen] = held[picks.indices[chosen] - starts[window]]
        return list(zip(picks.epochs.tolist(), rows.tolist(), strict=True))

    def _epoch(self, epoch: int) -> EpochOrder:
        """Return an epoch's order; that of the last two asked for is kept."""
        if epoch not in self._orders:
            self._orders[epoch] = self._deal(epoch)
            while len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def _deal(self, epoch: int) -> EpochOrder:
        shards = random_for("order of shards", self.seed, epoch).permutation(len(self.counts))
        shards = shards[self.counts[shards] > 0]
        size, lanes, lengths = self.shuffle_window_shards, [], []
        lane_of, position_of = np.full((2, len(self.counts)), -1)
        for number, dealt in enumerate(deal(self.counts[shards], self.lanes)):
            own = shards[dealt]
            ends = np.cumsum(self.counts[own])
            starts = np.concatenate([[0], ends[size - 1 : -1 : size]])
            lanes.append(Lane(shards=own, starts=starts))
            lengths.append(int(ends[-1]))
            lane_of[own], position_of[own] = number, np.arange(len(own))
        return EpochOrder(
            epoch=epoch,
            lanes=tuple(lanes),
            merge=Merge(np.asarray(lengths)),
            lane_of=lane_of,
            position_of=position_of,
        )

    def _window(self, order: EpochOrder, lane: int, window: int) -> Rows:
        """Return the rows of a lane's window, permuted; those of each lane's last are kept."""
        name = order.epoch, lane, window
        if name not in self._windows:
            shards = self.shards(Window(order.epoch, lane, window))
            spans = [np.arange(self.counts[s]) + self.first_rows[s] for s in shards]
            position = (window,) if self.lanes == 1 else (lane, window)
            random = random_for("order of samples", self.seed, order.epoch, *position)
            self._windows[name] = random.permutation(np.concatenate(spans))
            while len(self._windows) > self.lanes:
                self._windows.popitem(last=False)
        self._windows.move_to_end(name)
        return self._windows[name]
