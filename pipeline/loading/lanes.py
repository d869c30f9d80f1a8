"""Lanes: an epoch's shards dealt out, so that each node reads its own share of a set.

An epoch is a merge of K lanes. Each lane is a list of shards, and the merge takes from every lane
in proportion to its samples, so all lanes end together. Workers take neighbouring lanes of each
batch: a node needs the shards of its own lanes, not the whole set. K is a constant of the run, so
the samples of a step do not depend on nodes or workers.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Times = NDArray[np.float64]


def deal(sizes: Numbers, lanes: int) -> list[Numbers]:
    """Deal shards to lanes one after the other, each to the lane with the fewest samples.

    Args:
        sizes: samples of each shard, all positive, in the order of dealing.
        lanes: number of lanes, at most the number of shards.

    Returns:
        For each lane the indices of its shards, in the order of dealing. The lanes' sums differ by
        at most the largest shard.
    """
    if lanes == 1:
        return [np.arange(len(sizes))]
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    loads = [(0, lane) for lane in range(lanes)]
    for shard, size in enumerate(sizes.tolist()):
        load, lane = heapq.heappop(loads)
        dealt[lane].append(shard)
        heapq.heappush(loads, (load + size, lane))
    return [np.asarray(shards, np.int64) for shards in dealt]


class Merge:
    """The positions of the lanes' samples in an epoch.

    Sample j of a lane of n stands at time (j + 1/2) / n, and an epoch is in the order of times,
    ties by lane. Times are 64-bit floats: their rounding is the same on every machine, and never
    changes the order inside a lane of less than 2^52 samples.

    Args:
        lengths: samples of each lane, all positive.
    """

    def __init__(self, lengths: Numbers) -> None:
        self.lengths, self.total = lengths, int(lengths.sum())

    def between(self, first: int, last: int) -> tuple[Numbers, Numbers]:
        """Return the lane and the index in it of each of the positions [first, last)."""
        if len(self.lengths) == 1:
            return np.zeros(last - first, np.int64), np.arange(first, last)
        # The samples before time t are t * total, give or take half a sample for each lane.
        slack = len(self.lengths)
        starts = self._before((first - slack) / self.total)
        ends = self._before((last + slack) / self.total)
        lanes = np.repeat(np.arange(len(self.lengths)), ends - starts)
        within = np.arange(len(lanes)) - np.repeat(
            np.cumsum(ends - starts) - (ends - starts), ends - starts
        )
        indices = within + starts[lanes]
        order = np.lexsort((lanes, self._times(lanes, indices)))
        chosen = order[first - int(starts.sum()) : last - int(starts.sum())]
        return lanes[chosen], indices[chosen]

    def position(self, lane: int, index: int) -> int:
        """Return the position of a lane's sample: the inverse of :meth:`between`."""
        time = float(self._times(np.array([lane]), np.array([index]))[0])
        counts = self._before(time)
        tied = counts[:lane]
        earlier = np.arange(lane)
        open_ended = tied < self.lengths[:lane]
        ties = self._times(earlier[open_ended], tied[open_ended]) == time
        return int(counts.sum() + ties.sum())

    def _before(self, time: float) -> Numbers:
        """Return how many samples of each lane stand before a time."""
        lanes = np.arange(len(self.lengths))
        counts: Numbers = np.clip(np.ceil(time * self.lengths - 0.5), 0, self.lengths).astype(
            np.int64
        )
        for _ in range(2):  # the estimate may be off by a sample where floats round
            more = (counts < self.lengths) & (self._times(lanes, counts) < time)
            fewer = (counts > 0) & (self._times(lanes, counts - 1) >= time)
            counts = counts + more.astype(np.int64) - fewer.astype(np.int64)
        return counts

    def _times(self, lanes: Numbers, indices: Numbers) -> Times:
        return (2 * indices + 1) / (2 * self.lengths[lanes])


def share_per_node(nodes: int, lanes: int) -> float:
    """Return the share of a set that a node reads per epoch, at most: 1/nodes + 3/lanes.

    A node's share of a batch begins and ends within a lane, and both ends move by a few samples
    from batch to batch where lanes have unequal lengths.
    """
    return min(1.0, 1 / nodes + 3 / lanes)
