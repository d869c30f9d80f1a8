"""The order of samples: one for any number of workers, from any step."""

import numpy as np
import pytest

from infill.pipeline.loading import BatchConfig, StatelessSampler, order_of
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.masks import random_for

GOLDEN_ORDER = [6, 3, 5, 8, 9, 7, 10, 0, 1, 2, 4, 19]
GOLDEN_VIEW = [0.629189084165865, 0.3709000039350706]
"""A change here would show every unfinished run other samples than before."""


def test_every_epoch_holds_every_sample_once() -> None:
    order = StatelessSampler((5, 0, 3, 7, 1, 4), seed=1, shuffle_window_shards=2)
    positions = [order.at(p) for p in range(3 * 20)]
    for epoch in range(3):
        part = positions[20 * epoch : 20 * (epoch + 1)]
        assert {e for e, _ in part} == {epoch}
        assert sorted(row for _, row in part) == list(range(20))
    assert [r for _, r in positions[:20]] != [r for _, r in positions[20:40]]


def test_all_world_sizes_see_the_same_samples_at_every_step() -> None:
    counts, batch = (7, 11, 5, 9, 13), 12
    for step in (0, 1, 2, 3, 4, 100):
        whole = StatelessSampler(counts, 0, 2).batch(step, batch)
        for world_size in (1, 2, 3, 4, 6, 12):
            order = StatelessSampler(counts, 0, 2)
            slices = [order.batch(step, batch, rank, world_size) for rank in range(world_size)]
            assert {len(s) for s in slices} == {batch // world_size}
            merged = [None] * batch
            for rank, part in enumerate(slices):
                merged[rank::world_size] = part
            assert merged == whole


def test_a_thousand_ranks_share_a_step_without_overlap() -> None:
    counts = tuple(50 + i % 17 for i in range(60))
    batch, world_size = 2000, 1000
    orders = [StatelessSampler(counts, 5, 8) for _ in range(world_size)]
    step = 1  # crosses from the first epoch, 3,464 samples, into the second
    seen = [pair for r, o in enumerate(orders) for pair in o.batch(step, batch, r, world_size)]
    expected = [StatelessSampler(counts, 5, 8).at(p) for p in range(2000, 4000)]
    assert len(set(seen)) == batch
    assert set(seen) == set(expected)
    assert {epoch for epoch, _ in seen} == {0, 1}


def test_order_asked_for_in_any_order_is_the_same() -> None:
    order = StatelessSampler((6, 6, 6, 6), seed=2, shuffle_window_shards=2)
    forwards = [order.at(p) for p in range(60)]
    backwards = [order.at(p) for p in reversed(range(60))]
    assert forwards == backwards[::-1]


def test_a_window_of_samples_comes_from_its_own_shards_only() -> None:
    counts = (10,) * 9
    order = StatelessSampler(counts, seed=4, shuffle_window_shards=3)
    used = [{order.at(p)[1] // 10 for p in range(30 * w, 30 * w + 30)} for w in range(3)]
    assert [len(s) for s in used] == [3, 3, 3]
    assert set().union(*used) == set(range(9))
    assert [order.at(p)[1] // 10 for p in range(30)] != sorted(
        order.at(p)[1] // 10 for p in range(30)
    )


def test_position_of_a_sample_is_the_inverse_of_the_order() -> None:
    order = StatelessSampler((4, 0, 7, 3, 0, 5, 1), seed=6, shuffle_window_shards=2)
    for position in range(3 * 20):
        epoch, row = StatelessSampler((4, 0, 7, 3, 0, 5, 1), seed=6, shuffle_window_shards=2).at(
            position
        )
        assert order.position(epoch, row) == position
    with pytest.raises(IndexError, match="row 20 of a set of 20"):
        order.position(0, 20)


def test_order_of_years_ago_is_the_order_of_today() -> None:
    order = StatelessSampler((4, 7, 3, 5, 1), seed=6, shuffle_window_shards=2)
    assert [order.at(p)[1] for p in range(12)] == GOLDEN_ORDER
    maker_random = random_for("view", "places/0001", 7, 3).random(2)
    np.testing.assert_array_equal(maker_random, GOLDEN_VIEW)


def test_the_order_of_a_set_follows_the_fields_of_its_configuration() -> None:
    counts = (5, 3, 7, 1, 4, 6, 2)
    config = BatchConfig(seed=3, shuffle_window_shards=2, shuffle_lanes=4)
    found = order_of(counts, config).batch(0, 28)
    assert found == StatelessSampler(counts, 3, 2, 4).batch(0, 28)
    for other in ((4, 2, 4), (3, 3, 4), (3, 2, 3)):
        assert found != StatelessSampler(counts, *other).batch(0, 28)


def test_seed_changes_the_order() -> None:
    def epoch(seed: int) -> list[tuple[int, int]]:
        return StatelessSampler((20, 20), seed, 2).batch(0, 40)

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert sorted(epoch(0)) == sorted(epoch(1))


def test_order_of_a_billion_samples_costs_no_more_than_a_window() -> None:
    order = StatelessSampler((10_000,) * 100_000, seed=0, shuffle_window_shards=2)
    epoch, row = order.at(10**9 + 123_456_789)
    assert epoch == 1
    assert 0 <= row < 10**9
    assert {rows.size for rows in order._windows.values()} == {20_000}


def test_thousand_nodes_that_die_and_return_take_every_sample_of_an_epoch_once() -> None:
    """A fifth of Places2; every crash goes back to the last checkpoint."""
    chance = np.random.default_rng(0)
    order = StatelessSampler([1000] * 360 + [460], seed=5, shuffle_window_shards=64)
    config = BatchConfig(batch_size=8000)
    steps, save_every = order.total // config.batch_size, 5
    taken = np.full((steps, config.batch_size), -1, np.int64)
    step, nodes, crashes, most, least = 0, 1000, 0, 0, config.batch_size
    while step < steps:
        places = [WorkerShare(config=config, rank=rank, world_size=nodes) for rank in range(nodes)]
        slices = [place.visits(order, step) for place in places]
        sizes = {len(visits) for visits in slices}
        assert sizes == {config.batch_size // nodes}
        least, most = min(least, *sizes), max(most, *sizes)
        taken[step] = [row for visits in slices for row, epoch, _ in visits if epoch == 0]
        step += 1
        if chance.random() < 0.2:  # Some nodes are gone, or back: fewer or more of them go on.
            step -= step % save_every
            nodes = int(chance.choice([1000, 800, 500, 250]))
            crashes += 1
    assert crashes > 5
    assert (least, most) == (8, 32)
    counts = np.bincount(taken.ravel(), minlength=order.total)
    assert counts.max() == 1
    assert counts.sum() == steps * config.batch_size > order.total - config.batch_size


def test_windows_are_those_of_each_lane_s_samples() -> None:
    order = StatelessSampler((4,) * 12, seed=3, shuffle_window_shards=2, lanes=3)
    lanes = order._epoch(0).lanes
    for first, second in ((0, 1), (1, 0)):  # The first two lanes are in different windows.
        shards = [lanes[0].shards[2 * first], lanes[1].shards[2 * second]]
        found = order.windows([(0, 4 * int(shard)) for shard in shards])
        assert sorted(found) == [(0, 0, first), (0, 1, second)]
