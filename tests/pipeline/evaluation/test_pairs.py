from dataclasses import replace

import numpy as np
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig
from infill.pipeline.evaluation.pairs import MOST_PARTS, GeneratedPairs
from infill.pipeline.manifest import Manifest, ShardRecord

BUCKETS = ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6))
CONFIG = EvaluationConfig(checkpoint="c", shards="s", buckets=BUCKETS, pairs_per_image=2)


def pairs_of(manifest: Manifest, size: int = 64, **changes) -> GeneratedPairs:
    return GeneratedPairs(replace(CONFIG, **changes), manifest, size)


def test_every_image_meets_every_group_as_often_as_asked(listed):
    pairs = pairs_of(listed)
    assert len(pairs) == 12 * 3 * 2
    met = [(p.key, p.group.name, p.repeat) for p in (pairs[i] for i in range(len(pairs)))]
    assert len(set(met)) == len(met)
    assert {key for key, _, _ in met} == {f"sample{n:02d}" for n in range(12)}
    assert pairs[71].source == "photograph5.jpg"
    assert pairs[71].row == 11


def test_mask_of_a_pair_lies_in_its_group_and_no_two_are_alike(listed):
    pairs = pairs_of(listed)
    masks = [pairs.mask(pairs[index]) for index in range(len(pairs))]
    for index, mask in enumerate(masks):
        bounds = pairs[index].group.masks
        assert bounds.min_hole_ratio < mask.hole_ratio <= bounds.max_hole_ratio
        assert mask.hole.shape == (64, 64)
    assert len({mask.id for mask in masks}) == len(masks)
    assert len({mask.hole.tobytes() for mask in masks}) == len(masks)


def test_pairs_depend_on_the_seed_but_not_on_who_evaluates_what(listed):
    one = pairs_of(listed)
    same = pairs_of(listed, checkpoint="other", batch_size=3, num_actors=4, baselines=())
    other = pairs_of(listed, seed=1)
    for index in (0, 17, 71):
        hole = one.mask(one[index]).hole
        assert np.array_equal(hole, same.mask(same[index]).hole)
        assert not np.array_equal(hole, other.mask(other[index]).hole)


@pytest.mark.parametrize("batch_size", [1, 5, 8, 100])
def test_parts_hold_every_pair_once_in_whole_batches(listed, batch_size):
    pairs = pairs_of(listed, batch_size=batch_size)
    parts = [pairs.part(number) for number in range(pairs.num_parts)]
    assert [index for part in parts for index in part] == list(range(len(pairs)))
    assert all(len(part) % batch_size == 0 for part in parts[:-1])


def test_large_sets_are_cut_into_few_parts(listed):
    pairs = pairs_of(listed, pairs_per_image=5000, batch_size=8)
    assert len(pairs) == 180_000
    assert MOST_PARTS // 2 < pairs.num_parts <= MOST_PARTS


def test_examples_are_spread_over_images_and_groups(listed):
    pairs = pairs_of(listed)
    shown = [pairs[index] for index in pairs.examples(6)]
    assert len(shown) == 6
    assert len({pair.key for pair in shown}) == 6
    assert [pair.group.name for pair in shown] == ["0.1-0.2", "0.3-0.4", "0.5-0.6"] * 2
    assert len(pairs.examples(1000)) <= len(pairs)


def test_only_the_first_images_are_taken_if_asked(listed):
    pairs = pairs_of(listed, num_images=2)
    assert {pairs[index].key for index in range(len(pairs))} == {"sample00", "sample01"}


def test_more_images_than_the_set_holds_are_refused(listed):
    assert len(pairs_of(listed, num_images=12).rows()) == 12
    with pytest.raises(UserError, match=r"/nowhere holds 12 images, fewer than --num-images 13;"):
        pairs_of(listed, num_images=13)


def test_image_smaller_than_the_crop_is_named_before_anything_is_read(listed):
    with pytest.raises(UserError, match=r"sample00 of /nowhere is 64x64 px, smaller.*66 px"):
        pairs_of(listed, 66)
    assert len(pairs_of(listed, 66, crop="squash")) == 72


def test_an_empty_test_set_is_refused(listed):
    record = ShardRecord(name="s.tar", samples=0, size=0, sha256="")
    empty = replace(listed, samples=listed.samples.slice(0, 0), shards=(record,))
    with pytest.raises(UserError, match="holds no image"):
        pairs_of(empty)
