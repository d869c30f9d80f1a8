from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.inference.tiling import Tiles
from infill.pipeline.inference.tiling_plan import MAX_SEPARATE_HOLES, plan_tiles

CONFIG = TilingConfig(sides_px=(32, 64, 96), context=2.0, least_crop_px=64)
MODES = ["auto", "crop", "resize", "refine", "tile", "subsample"]


def hole_of(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return bool [H, W], True in boxes of (top, left, rows, columns)."""
    hole = np.zeros((height, width), bool)
    for top, left, rows, columns in boxes:
        hole[top : top + rows, left : left + columns] = True
    return hole


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 260)), draw(st.integers(1, 260))
    boxes = []
    for _ in range(draw(st.integers(1, 4))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        rows, columns = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
        boxes.append((top, left, rows, columns))
    return hole_of(height, width, *boxes), draw(st.sampled_from(MODES))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_hole_is_covered_by_tiles_of_the_list(case):
    hole, mode = case
    layout = plan_tiles(hole, CONFIG, mode)
    assert {side for size in layout.sizes for side in size} <= set(CONFIG.sides_px)
    assert 1 <= len(layout.sizes) <= CONFIG.max_tiles
    if isinstance(layout, Tiles):
        outside = hole.copy()
        for frame in layout.frames:
            outside[frame.window] = False
            assert hole[frame.window].shape == (frame.height, frame.width)
            assert frame.scaled_height <= frame.tile_height
            assert frame.scaled_width <= frame.tile_width
            if frame.kind != "resize":
                assert (frame.scaled_height, frame.scaled_width) == (frame.height, frame.width)
        assert not outside.any()


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_nothing_that_the_hole_covers_reaches_a_tile(case, seed):
    hole, mode = case
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*hole.shape, 3), np.uint8)
    other = np.where(hole[..., None], random.integers(0, 256, image.shape, np.uint8), image)
    layout = plan_tiles(hole, CONFIG, mode)
    pairs = zip(
        layout.sizes, layout.split_tiles(image, hole), layout.split_tiles(other, hole), strict=True
    )
    for size, (laid, mask), (laid_other, mask_other) in pairs:
        assert laid.shape == (*size, 3)
        assert mask.shape == size
        np.testing.assert_array_equal(mask, mask_other)
        np.testing.assert_array_equal(laid, laid_other)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_what_a_perfect_network_predicts_returns_to_its_position(case, seed):
    hole, mode = case
    image = np.random.default_rng(seed).integers(0, 256, (*hole.shape, 3), np.uint8)
    layout = plan_tiles(hole, CONFIG, mode)
    known = [laid for laid, _ in layout.split_tiles(image, np.zeros_like(hole))]
    lifted = layout.merge_tiles(known, hole)
    assert lifted.shape == image.shape
    if layout.kind not in ("resize", "refine"):
        np.testing.assert_array_equal(lifted[hole], image[hole])


@pytest.mark.parametrize(
    ("shape", "boxes", "kind", "sizes"),
    [
        ((96, 50), [(10, 10, 5, 5)], "whole", [(96, 64)]),
        ((300, 400), [(150, 200, 20, 20)], "crop", [(64, 64)]),
        ((300, 400), [(150, 200, 40, 20)], "crop", [(96, 64)]),
        ((300, 400), [(0, 390, 10, 10)], "crop", [(64, 64)]),
        ((300, 40), [(100, 10, 10, 10)], "crop", [(64, 64)]),
        ((300, 400), [(20, 20, 250, 100)], "resize", [(96, 64)]),
        ((300, 400), [(5, 5, 8, 8), (280, 380, 8, 8)], "crop", [(64, 64)] * 2),
        ((300, 400), [(5, 5, 8, 8), (20, 20, 8, 8), (280, 380, 8, 8)], "crop", [(64, 64)] * 2),
        ((300, 400), [(5, 5, 8, 8), (100, 100, 150, 8)], "resize", [(96, 96)]),
    ],
)
def test_policy_of_small_and_large_images_and_holes(shape, boxes, kind, sizes):
    layout = plan_tiles(hole_of(*shape, *boxes), CONFIG)
    assert (layout.kind, layout.sizes) == (kind, sizes)


def test_many_scattered_holes_are_predicted_from_one_smaller_tile():
    boxes = [(row, column, 4, 4) for row in range(0, 900, 150) for column in range(0, 900, 150)]
    layout = plan_tiles(hole_of(900, 900, *boxes), CONFIG)
    assert (layout.kind, len(layout.sizes)) == ("resize", 1)


def test_thousands_of_dots_are_not_cropped_one_by_one():
    """Two clusters fit on two crops; but with so many dots nobody looks at each."""
    config = TilingConfig(sides_px=(64, 512), least_crop_px=512)
    hole = np.zeros((3000, 3000), bool)
    hole[:140:2, :140:2] = hole[2860::2, 2860::2] = True
    assert [frame.kind for frame in plan_tiles(hole, config).frames] == ["crop", "crop"]
    hole[:200:2, :200:2] = True
    assert MAX_SEPARATE_HOLES < 100 * 100 + 70 * 70
    assert plan_tiles(hole, config).kind == "resize"


def test_crop_shows_the_hole_in_its_middle():
    [frame] = plan_tiles(hole_of(300, 400, (150, 200, 20, 20)), CONFIG).frames
    assert (frame.top, frame.left, frame.height, frame.width) == (128, 178, 64, 64)


def test_known_pixels_lie_on_the_tile_as_they_are_and_mirrored_beyond():
    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    hole = hole_of(40, 90, (5, 5, 4, 4))
    [(laid, mask)] = plan_tiles(hole, CONFIG).split_tiles(image, hole)
    known = mask[:40, :90] == 0
    np.testing.assert_array_equal(laid[:40, :90][known], image[known])
    np.testing.assert_array_equal(laid[:40, 90:], laid[:40, 83:89][:, ::-1])
    np.testing.assert_array_equal(laid[40:64], laid[15:39][::-1])
    np.testing.assert_array_equal(mask[40:64], mask[15:39][::-1])


def test_large_hole_is_filled_from_a_smaller_tile_without_shift():
    rows, columns = np.mgrid[0:300, 0:400]
    image = np.stack([rows * 0.8, columns * 0.6, rows * 0 + 40], axis=-1).astype(np.uint8)
    hole = hole_of(300, 400, (20, 20, 250, 300))
    layout = plan_tiles(hole, CONFIG)
    assert layout.kind == "resize"
    [(laid, _)] = layout.split_tiles(image, np.zeros_like(hole))  # as if the network knew
    error = layout.merge_tiles([laid], hole).astype(float)[hole] - image[hole]
    assert np.abs(error).max() < 4


def test_tiles_cover_the_hole_only_and_blend_without_a_seam():
    hole = hole_of(300, 400, (20, 20, 200, 40))
    layout = plan_tiles(hole, CONFIG, "tile")
    assert layout.kind == "tile"
    assert set(layout.sizes) == {(96, 96)}
    tops = sorted({frame.top for frame in layout.frames})
    overlaps = [96 - (second - first) for first, second in zip(tops, tops[1:], strict=False)]
    assert min(overlaps) >= 12
    shades = [np.full((96, 96, 3), 10 * number, np.uint8) for number in range(len(layout.frames))]
    lifted = layout.merge_tiles(shades, hole)[..., 0].astype(int)
    steps = np.abs(np.diff(lifted[20:220, 30]))
    assert steps.max() <= 2  # neighbouring tiles differ by 10, or by a row of tiles


def test_subsampling_takes_every_nth_pixel():
    image = np.random.default_rng(0).integers(0, 256, (192, 150, 3), np.uint8)
    hole = hole_of(192, 150, (50, 50, 60, 60))
    layout = plan_tiles(hole, CONFIG, "subsample")
    assert layout.sizes == [(96, 96)] * 4
    for (v, u), (laid, mask) in zip(
        [(0, 0), (0, 1), (1, 0), (1, 1)], layout.split_tiles(image, hole), strict=True
    ):
        known = ~hole[v::2, u::2]
        np.testing.assert_array_equal(laid[:, :75][known], image[v::2, u::2][known])
        np.testing.assert_array_equal(mask[:, :75], hole[v::2, u::2])


@pytest.mark.parametrize(("height", "width"), [(256, 256), (512, 768), (1024, 1024), (37, 211)])
def test_sub_images_interleave_to_the_image_they_came_from(height, width):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    hole = hole_of(height, width, (0, 0, 1, 1))
    layout = plan_tiles(hole, replace(CONFIG, sides_px=(64, 256)), "subsample")
    whole = layout.merge_tiles([laid for laid, _ in layout.split_tiles(image, hole)], hole)
    np.testing.assert_array_equal(whole[~hole], image[~hole])


@pytest.mark.parametrize("mode", ["tile", "refine", "subsample"])
def test_more_tiles_than_allowed_are_refused(mode):
    hole = hole_of(2000, 2000, (10, 10, 1900, 1900))
    with pytest.raises(ValueError, match=r"needs \d+ .*more than max_tiles 64"):
        plan_tiles(hole, CONFIG, mode)


@pytest.mark.parametrize("bad", [(), (64, 32), (64, 64), (0, 32)])
def test_impossible_sides_are_refused(bad):
    with pytest.raises(ValueError, match="sides_px"):
        TilingConfig(sides_px=bad)


def test_small_images_have_a_tile_of_their_size_by_default():
    hole = np.zeros((64, 60), bool)
    hole[3:9, 4:8] = True
    assert plan_tiles(hole, TilingConfig()).sizes == [(64, 64)]


@pytest.mark.parametrize(
    ("extend_to_px", "largest", "scale"), [(0, 512, 0.5), (800, 768, 0.75), (1024, 1024, 1.0)]
)
def test_large_holes_are_predicted_on_larger_tiles_where_they_are_allowed(
    extend_to_px, largest, scale
):
    layout = plan_tiles(
        hole_of(1024, 1024, (2, 2, 1000, 1000)), TilingConfig(extend_to_px=extend_to_px)
    )
    assert layout.sizes == [(largest, largest)]
    assert layout.scale == scale


def test_tiles_beyond_the_largest_extension_are_given_by_their_sides():
    with pytest.raises(ValueError, match=r"extend_to_px must be 0 to 1024.*sides_px"):
        TilingConfig(extend_to_px=2048)
