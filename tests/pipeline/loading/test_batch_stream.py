"""Batches are functions of (shards, configuration, step): of nothing else."""

import numpy as np
import pytest
import torch

from infill.pipeline.config import from_json, to_json
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig, BatchStream
from infill.pipeline.masks import MaskConfig, mask_from_id

SMALL = {"image_size_px": 32, "batch_size": 6, "masks": MaskConfig(recipe="box"), "seed": 3}


def test_batch_has_the_shapes_ranges_and_names_it_promises(shards: str, take) -> None:
    (batch,) = take(BatchConfig(shards=shards, **SMALL), 1)
    assert batch.image.shape == (6, 3, 32, 32)
    assert batch.mask.shape == (6, 1, 32, 32)
    assert batch.image.dtype == batch.mask.dtype == torch.float32
    assert -1 <= batch.image.min() < batch.image.max() <= 1
    assert set(batch.mask.unique().tolist()) == {0.0, 1.0}
    assert len(set(batch.keys)) == 6
    for mask_id, mask in zip(batch.mask_ids, batch.mask, strict=True):
        again = mask_from_id(MaskConfig(recipe="box"), mask_id)
        np.testing.assert_array_equal(again.hole, mask[0].numpy())


def test_stream_from_a_later_step_continues_exactly(shards: str, take, assert_same) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    whole = take(config, 6)  # eight samples, six a step: steps cross epochs
    assert_same(take(config, 3, first_step=3), whole[3:])
    assert [batch.step for batch in whole] == list(range(6))


def test_two_workers_share_the_batch_of_one(shards: str, take) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    alone = take(config, 3)
    workers = [take(config, 3, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(alone):
        for rank in range(2):
            part = workers[rank][step]
            assert part.keys == batch.keys[rank::2]
            assert part.mask_ids == batch.mask_ids[rank::2]
            assert torch.equal(part.image, batch.image[rank::2])
            assert torch.equal(part.mask, batch.mask[rank::2])
        assert workers[0][step].seed != workers[1][step].seed


def test_global_random_state_is_neither_read_nor_changed(shards: str, take, assert_same) -> None:
    config = BatchConfig(shards=shards, colour_jitter=0.1, **SMALL)
    torch.manual_seed(0)
    np.random.seed(0)
    first = take(config, 2)
    assert np.random.random() == np.random.RandomState(0).random()
    expected = torch.rand(1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.rand(1), expected)
    assert_same(take(config, 2), first)


def test_unequal_slices_are_refused(shards: str) -> None:
    with pytest.raises(UserError, match="multiple of the number of workers, found 6 for 4"):
        BatchStream(BatchConfig(shards=shards, **SMALL), rank=0, world_size=4)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"image_size_px": 4}, "image_size_px must be at least 8"),
        ({"num_decode_workers": 0}, "num_decode_workers"),
        ({"colour_jitter": 0.9}, "colour_jitter"),
        ({"resize_short_side_px": 100}, "resize_short_side_px"),
        ({"random_resize": 0.5}, "random_resize must be 0 or at least 1"),
        ({"random_resize": 2.0, "crop": "squash"}, "random_resize goes with"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        BatchConfig(**fields)


def test_configuration_survives_json() -> None:
    config = BatchConfig(masks=MaskConfig(recipe="box", max_hole_ratio=0.3), crop="squash")
    assert from_json(BatchConfig, to_json(config)) == config
