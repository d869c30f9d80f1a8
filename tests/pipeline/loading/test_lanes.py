"""Lanes: every sample once, whoever reads it, and a node's share of the shards alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from infill.pipeline.loading import BatchConfig, StatelessSampler
from infill.pipeline.loading.lanes import Merge, deal, share_per_node
from infill.pipeline.loading.worker_context import WorkerShare

GOLDEN_ORDER = [2, 4, 11, 3, 6, 1, 10, 13, 0, 8, 17, 18, 12, 9, 15, 5, 16, 19, 7, 14]
"""A change here would show every unfinished run other samples than before."""


def test_merge_is_the_order_of_times_with_ties_by_lane() -> None:
    chance = np.random.default_rng(0)
    for _ in range(60):
        lengths = chance.integers(1, 40, chance.integers(1, 9))
        times = [
            ((2 * index + 1) / (2 * int(length)), lane, index)
            for lane, length in enumerate(lengths)
            for index in range(length)
        ]
        expected = [(lane, index) for _, lane, index in sorted(times)]
        merge = Merge(lengths)
        first, last = sorted(chance.integers(0, merge.total + 1, 2).tolist())
        for begin, end in ((0, merge.total), (first, last + 1 - (last == merge.total))):
            lanes, indices = merge.between(begin, max(end, begin))
            assert list(zip(lanes, indices, strict=True)) == expected[begin:end]
        assert [merge.position(*pair) for pair in expected] == list(range(merge.total))


def test_deal_balances_lanes_to_one_shard() -> None:
    sizes = np.random.default_rng(1).integers(1, 1000, 500)
    dealt = deal(sizes, 16)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(500))
    loads = [int(sizes[shards].sum()) for shards in dealt]
    assert max(loads) - min(loads) <= sizes.max()


def test_order_of_years_ago_is_the_order_of_today() -> None:
    order = StatelessSampler((4, 7, 3, 5, 1), seed=6, shuffle_window_shards=1, lanes=3)
    assert [order.at(p)[1] for p in range(20)] == GOLDEN_ORDER


def test_position_is_the_inverse_of_the_order() -> None:
    order = StatelessSampler((4, 0, 7, 3, 0, 5, 1), seed=6, shuffle_window_shards=2, lanes=3)
    for position in range(3 * 20):
        assert order.position(*order.at(position)) == position


def test_more_lanes_than_shards_are_as_many_lanes_as_shards() -> None:
    few = StatelessSampler((4, 0, 7, 3), seed=1, shuffle_window_shards=1, lanes=3)
    many = StatelessSampler((4, 0, 7, 3), seed=1, shuffle_window_shards=1, lanes=64)
    assert few.span(0, 30) == many.span(0, 30)


@pytest.mark.parametrize("each", [1, 3])
def test_any_number_of_workers_sees_the_same_batch(each: int) -> None:
    counts = (7, 11, 5, 9, 13, 2, 8)
    config = BatchConfig(batch_size=12, masks_per_image=each, shuffle_lanes=4)
    for step in (0, 3, 13, 14, 100):  # 55 samples: some steps cross into the next epoch
        whole = visits(config, counts, step, 1)
        assert len(set(whole)) == 12
        for workers in (2, 3, 4, 6, 12):
            assert visits(config, counts, step, workers) == whole


def visits(
    config: BatchConfig, counts: Sequence[int], step: int, workers: int
) -> list[tuple[int, int, int]]:
    """Return a step's samples, worker by worker."""
    order = StatelessSampler(counts, 0, 2, config.shuffle_lanes)
    shares = [WorkerShare(config=config, rank=r, world_size=workers) for r in range(workers)]
    return [visit for share in shares for visit in share.visits(order, step)]


def test_nodes_that_die_and_return_take_every_sample_of_an_epoch_once() -> None:
    """Every crash goes back to the last checkpoint, and other numbers of nodes go on."""
    chance = np.random.default_rng(0)
    counts = [100] * 90 + [46]
    order = StatelessSampler(counts, 5, 2, 32)
    config = BatchConfig(batch_size=480, shuffle_lanes=32)
    steps, save_every = order.total // config.batch_size, 4
    taken = np.full((steps, config.batch_size), -1, np.int64)
    step, nodes, crashes = 0, 240, 0
    while step < steps:
        shares = [WorkerShare(config=config, rank=r, world_size=nodes) for r in range(nodes)]
        taken[step] = [row for share in shares for row, _, _ in share.visits(order, step)]
        step += 1
        if chance.random() < 0.3:
            step -= step % save_every
            nodes = int(chance.choice([240, 160, 96, 48]))
            crashes += 1
    assert crashes > 3
    counted = np.bincount(taken.ravel(), minlength=order.total)
    assert counted.max() == 1
    assert counted.sum() == steps * config.batch_size > order.total - config.batch_size


def test_a_node_reads_its_share_of_the_shards_and_not_the_set() -> None:
    counts, batch = [50] * 255 + [23], 512
    for nodes, lanes in ((4, 64), (8, 64), (8, 128)):
        order = StatelessSampler(counts, 3, 2, lanes)
        read: list[set[int]] = []
        for node in range(nodes):
            windows = {
                window
                for step in range(order.total // batch)
                for window in order.windows(order.batch(step, batch, node, nodes))
            }
            read.append({shard for window in windows for shard in order.shards(window)})
        shares = [sum(counts[shard] for shard in shards) / order.total for shards in read]
        assert max(shares) <= share_per_node(nodes, lanes) < 0.5
        assert set().union(*read) == set(range(256))
    assert share_per_node(8, 1) == 1


def test_lanes_mix_as_a_full_shuffle_does() -> None:
    counts = [100] * 200
    shard_of = np.repeat(np.arange(200), counts)

    def same(rows: np.ndarray) -> float:
        return float((np.diff(shard_of[rows]) == 0).mean())

    def of_lanes(lanes: int, window: int) -> float:
        order = StatelessSampler(counts, 0, window, lanes)
        return same(np.array([row for _, row in order.span(0, order.total)]))

    full = same(np.random.default_rng(0).permutation(20_000))
    assert of_lanes(64, 2) < 2 * full < of_lanes(1, 8) / 10


def test_following_windows_lead_through_the_lane_into_the_next_epoch() -> None:
    order = StatelessSampler((5,) * 12, seed=2, shuffle_window_shards=2, lanes=2)
    [window] = [w for w in order.windows(order.span(0, 4)) if w.lane == 1]
    read = []
    for _ in range(6):
        read.append(window)
        window = order.following(window)
    assert [(w.epoch, w.number) for w in read] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    shards = [shard for w in read[:3] for shard in order.shards(w)]
    assert len(set(shards)) == 6


def test_a_node_s_share_is_bounded_by_the_set() -> None:
    """With few lanes every node reads the whole set."""
    found = {(4, 1): 1.0, (1, 64): 1.0, (8, 2): 1.0, (4, 64): 1 / 4 + 3 / 64, (2, 8): 7 / 8}
    assert {given: share_per_node(*given) for given in found} == found
