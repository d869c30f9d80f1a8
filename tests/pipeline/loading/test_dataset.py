"""The crop of an image, and the input of the network."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from infill.pipeline.errors import UserError
from infill.pipeline.images import decode_sample
from infill.pipeline.loading import (
    BatchConfig,
    BatchStream,
    InpaintingDataset,
    dataset,
    load_sample,
)
from infill.pipeline.loading.dataset import divisor, resize_at_random
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig

SMALL = {"image_size_px": 32, "batch_size": 6, "masks": MaskConfig(recipe="box"), "seed": 3}


def test_epochs_show_a_sample_in_other_crops_under_other_holes(shards: str) -> None:
    maker = InpaintingDataset(BatchConfig(shards=shards, **SMALL), read_manifest(shards))
    samples = [maker.make(2, epoch) for epoch in range(8)]
    assert len({s.pixels.tobytes() for s in samples}) > 6
    assert len({s.mask_id for s in samples}) == 8


def test_flip_mirrors_about_half_of_the_samples_and_moves_nothing_else(shards: str) -> None:
    config = BatchConfig(shards=shards, **SMALL)
    manifest = read_manifest(shards)
    flipping = InpaintingDataset(config, manifest)
    plain = InpaintingDataset(replace(config, horizontal_flip=False), manifest)
    mirrored = 0
    for epoch in range(60):
        ours, theirs = flipping.make(0, epoch).pixels, plain.make(0, epoch).pixels
        if not np.array_equal(ours, theirs):
            np.testing.assert_array_equal(ours, theirs[:, ::-1])
            mirrored += 1
    assert 18 < mirrored < 42


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda pixels: pixels[::2], r"uint8 \[16, 32, 3\]"),
        (lambda pixels: pixels[..., :1], r"uint8 \[32, 32, 1\]"),
        (lambda pixels: pixels / 255, r"float64 \[32, 32, 3\]"),
    ],
)
def test_augmentation_that_changes_shape_or_type_is_refused(
    shards: str, monkeypatch, take, change, found: str
) -> None:
    """Otherwise the batch keeps what its memory held before."""
    monkeypatch.setattr(
        InpaintingDataset, "augmented", lambda transform, pixels, *about, **more: change(pixels)
    )
    with pytest.raises(ValueError, match=rf"must return uint8 \[32, 32, 3\], not {found}"):
        take(BatchConfig(shards=shards, **SMALL), 1)


def test_random_crop_is_a_window_of_the_image(shards: str, pictures: list[bytes]) -> None:
    config = BatchConfig(shards=shards, horizontal_flip=False, **SMALL)
    maker = InpaintingDataset(config, read_manifest(shards))
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(pictures[1], np.uint8), 1), cv2.COLOR_BGR2RGB)
    places = set()
    for epoch in range(12):
        pixels = maker.make(1, epoch).pixels
        distance = cv2.matchTemplate(image, pixels, cv2.TM_SQDIFF)
        _, _, (left, top), _ = cv2.minMaxLoc(distance)
        np.testing.assert_array_equal(image[top : top + 32, left : left + 32], pixels)
        places.add((top, left))
    assert len(places) > 9


@pytest.mark.parametrize("crop", ["random", "centre", "squash", "centre_square", "subsample"])
def test_every_crop_gives_the_size_asked_for(shards: str, crop: str, take) -> None:
    config = BatchConfig(shards=shards, crop=crop, quarter_turns=True, **SMALL)
    (batch,) = take(config, 1)
    assert batch.image.shape == (6, 3, 32, 32)


def test_squash_shows_the_whole_image_averaged(shards: str, pictures: list[bytes]) -> None:
    pixels = load_sample(read_manifest(shards), 0, 32, crop="squash").astype(np.float64)
    image = cv2.imdecode(np.frombuffer(pictures[0], np.uint8), 1)[..., ::-1].astype(np.float64)
    means = image.reshape(32, 3, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(pixels - means).max() <= 0.51


def test_resized_short_side_keeps_proportions(shards: str) -> None:
    config = BatchConfig(
        shards=shards, crop="centre", resize_short_side_px=48, horizontal_flip=False, **SMALL
    )
    manifest = read_manifest(shards)
    pixels = InpaintingDataset(config, manifest).make(0, 0).pixels
    halved = cv2.resize(load_sample(manifest, 0, 96), (48, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.astype(int) - halved[8:40, 8:40]).max() <= 1


@pytest.mark.parametrize(
    "form",
    [
        {"crop": "squash"},
        {"crop": "centre_square"},
        {"crop": "centre", "resize_short_side_px": 48},
        {"random_resize": 1.5},
    ],
    ids=str,
)
def test_scaled_decoding_shows_the_same_sample_from_a_reduced_image(
    shards: str, form: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = []
    monkeypatch.setattr(
        dataset,
        "decode_sample",
        lambda data, part: sides.append(decode_sample(data, part)) or sides[-1],
    )
    config, manifest = BatchConfig(shards=shards, **form, **SMALL), read_manifest(shards)
    whole = InpaintingDataset(config, manifest).make(0, 0)
    scaled = InpaintingDataset(replace(config, scaled_decoding=True), manifest).make(0, 0)
    assert [max(image.shape) for image in sides] == [128, 64]
    assert np.abs(scaled.pixels.astype(int) - whole.pixels).mean() < 2
    assert (scaled.hole == whole.hole).all()


def test_scaled_decoding_leaves_windows_of_the_whole_image_as_they_are(shards: str) -> None:
    config, manifest = BatchConfig(shards=shards, **SMALL), read_manifest(shards)
    for crop in ("random", "centre"):
        plain = replace(config, crop=crop, scaled_decoding=False)
        scaled = replace(plain, scaled_decoding=True)
        one, other = (InpaintingDataset(each, manifest).make(0, 0) for each in (plain, scaled))
        assert (one.pixels == other.pixels).all()


def test_an_image_is_reduced_to_sides_that_are_at_least_those_wanted() -> None:
    assert [divisor(1024, 2048, least) for least in (128, 129, 256, 257, 512, 513, 1024)] == [
        8,
        4,
        4,
        2,
        2,
        1,
        1,
    ]
    assert divisor(4096, 4096, 0) == 1


def test_random_resize_shows_every_scale_from_the_whole_to_a_part() -> None:
    """The short side is 1 to 2.5 times the window, as often below the middle ratio as above."""
    config = BatchConfig(shards="unused", random_resize=2.5, **SMALL)
    image = np.zeros((96, 120, 3), np.uint8)
    sides = [resize_at_random(image, config, index / 100).shape[:2] for index in range(100)]
    short = np.array([height for height, _ in sides])
    assert (short.min(), short.max()) == (32, 79)
    assert abs(np.median(short) - 32 * 2.5**0.5) < 1
    assert all(abs(width / height - 1.25) < 0.03 for height, width in sides)
    small = image[:40, :50]
    assert [resize_at_random(small, config, end).shape[0] for end in (0.0, 0.99)] == [32, 40]


def test_random_resize_differs_by_epoch_and_comes_again(shards: str) -> None:
    config = BatchConfig(shards=shards, random_resize=3.0, horizontal_flip=False, **SMALL)
    manifest = read_manifest(shards)
    maker, again = InpaintingDataset(config, manifest), InpaintingDataset(config, manifest)
    seen = [maker.make(0, epoch).pixels for epoch in range(8)]
    assert len({pixels.tobytes() for pixels in seen}) == 8
    assert all((again.make(0, epoch).pixels == seen[epoch]).all() for epoch in range(8))
    plain = InpaintingDataset(replace(config, random_resize=0.0), manifest).make(0, 3)
    assert maker.make(0, 3).mask_id == plain.mask_id
    # The contrast of neighbours is the scale's trace: a reduced image changes faster.
    contrast = [np.abs(np.diff(pixels.astype(int), axis=0)).mean() for pixels in seen]
    assert max(contrast) > 1.2 * min(contrast)


def test_colour_jitter_changes_colours_a_little_and_the_same_again(shards: str) -> None:
    manifest = read_manifest(shards)
    config = BatchConfig(shards=shards, **SMALL)
    plain = InpaintingDataset(config, manifest)
    changed = InpaintingDataset(replace(config, colour_jitter=0.05), manifest)
    differences = []
    for epoch in range(6):
        ours = changed.make(0, epoch)
        np.testing.assert_array_equal(ours.pixels, changed.make(0, epoch).pixels)
        assert ours.mask_id == plain.make(0, epoch).mask_id
        difference = ours.pixels.astype(int) - plain.make(0, epoch).pixels
        differences.append(np.abs(difference).mean())
    assert 0.3 < np.mean(differences) < 20
    assert len(set(differences)) == 6


def test_every_image_of_a_batch_has_one_mask_of_each_kind(shards: str) -> None:
    """DeepGIN's batches: the same for any number of workers and wherever a run went on."""
    kinds = (("box", 1.0), ("strokes", 1.0), ("automaton", 1.0))
    config = BatchConfig(
        shards=shards,
        batch_size=12,
        image_size_px=32,
        masks=MaskConfig(recipe="mixed", mixture=kinds, in_turn=True),
        masks_per_image=3,
    )
    with BatchStream(config) as stream:
        batches = [next(stream) for _ in range(3)]
    for batch in batches:
        for first in range(0, 12, 3):
            three = slice(first, first + 3)
            assert len(set(batch.keys[three])) == 1
            assert torch.equal(batch.image[first], batch.image[first + 1])
            assert torch.equal(batch.image[first], batch.image[first + 2])
            found = [name.split(":")[0] for name in batch.mask_ids[three]]
            assert found == ["box", "strokes", "automaton"]
    seen = [name for batch in batches for name in batch.mask_ids]
    assert len(set(seen)) == len(seen)
    shares = []
    for rank in range(4):
        with BatchStream(config, rank=rank, world_size=4, first_step=2) as stream:
            shares.append(next(stream))
    assert torch.equal(
        torch.stack([share.mask for share in shares], dim=1).flatten(0, 1), batches[2].mask
    )
    with pytest.raises(UserError, match="multiple of masks_per_image"):
        BatchConfig(batch_size=8, masks_per_image=3)


def test_images_smaller_than_the_crop_are_refused_before_anything_is_read(
    shards: str, take
) -> None:
    config = BatchConfig(shards=shards, image_size_px=100)
    with pytest.raises(UserError, match=r"'p000'.*128x96 px.*crop of 100 px, and so are 7 others"):
        BatchStream(config)
    (batch,) = take(replace(config, enlarge_small_images=True), 1)
    assert batch.image.shape == (8, 3, 100, 100)
    (batch,) = take(replace(config, crop="squash"), 1)
    assert batch.image.shape == (8, 3, 100, 100)
    with pytest.raises(UserError, match="'p000'.*smaller than the crop of 100 px;"):
        load_sample(read_manifest(shards), 0, 100)
