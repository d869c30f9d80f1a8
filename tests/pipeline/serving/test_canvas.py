import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serving.canvas import CanvasConfig, lay, lift, plan

CONFIG = CanvasConfig(sides_px=(32, 64, 96), context=2.0, least_crop_px=64)


def hole_of(height: int, width: int, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[top : top + rows, left : left + columns] = True
    return hole


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 260)), draw(st.integers(1, 260))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    rows, columns = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    return hole_of(height, width, top, left, rows, columns), draw(
        st.sampled_from(["auto", "crop", "resize"])
    )


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_hole_lies_within_its_frame_on_a_canvas_of_the_list(case):
    hole, mode = case
    frame = plan(hole, CONFIG, mode)
    outside = hole.copy()
    outside[frame.window] = False
    assert not outside.any()
    assert hole[frame.window].shape == (frame.height, frame.width)
    assert frame.canvas_height in CONFIG.sides_px
    assert frame.canvas_width in CONFIG.sides_px
    assert frame.drawn_height <= frame.canvas_height
    assert frame.drawn_width <= frame.canvas_width
    if frame.kind != "resize":
        assert (frame.drawn_height, frame.drawn_width) == (frame.height, frame.width)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_nothing_that_the_hole_covers_reaches_the_canvas(case, seed):
    hole, mode = case
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*hole.shape, 3), np.uint8)
    other = np.where(hole[..., None], random.integers(0, 256, image.shape, np.uint8), image)
    frame = plan(hole, CONFIG, mode)
    laid, mask = lay(image, hole, frame)
    laid_other, mask_other = lay(other, hole, frame)
    assert laid.shape == (frame.canvas_height, frame.canvas_width, 3)
    assert mask.shape == laid.shape[:2]
    assert mask.any()
    np.testing.assert_array_equal(mask, mask_other)
    np.testing.assert_array_equal(laid, laid_other)


@pytest.mark.parametrize(
    ("shape", "hole", "kind", "canvas"),
    [
        ((96, 50), (10, 10, 5, 5), "whole", (96, 64)),
        ((300, 400), (150, 200, 20, 20), "crop", (64, 64)),
        ((300, 400), (150, 200, 40, 20), "crop", (96, 64)),
        ((300, 400), (0, 390, 10, 10), "crop", (64, 64)),
        ((300, 40), (100, 10, 10, 10), "crop", (64, 64)),
        ((300, 400), (20, 20, 250, 100), "resize", (96, 64)),
    ],
)
def test_policy_of_small_and_large_images_and_holes(shape, hole, kind, canvas):
    frame = plan(hole_of(*shape, *hole), CONFIG)
    assert frame.kind == kind
    assert (frame.canvas_height, frame.canvas_width) == canvas


def test_crop_shows_the_hole_in_its_middle():
    frame = plan(hole_of(300, 400, 150, 200, 20, 20), CONFIG)
    assert (frame.top, frame.left, frame.height, frame.width) == (128, 178, 64, 64)


def test_known_pixels_lie_on_the_canvas_as_they_are_and_mirrored_beyond():
    image = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    hole = hole_of(40, 90, 5, 5, 4, 4)
    laid, mask = lay(image, hole, plan(hole, CONFIG))
    known = mask[:40, :90] == 0
    np.testing.assert_array_equal(laid[:40, :90][known], image[known])
    np.testing.assert_array_equal(laid[:40, 90:], laid[:40, 83:89][:, ::-1])
    np.testing.assert_array_equal(laid[40:64], laid[15:39][::-1])
    np.testing.assert_array_equal(mask[40:64], mask[15:39][::-1])


def test_prediction_returns_to_its_place():
    image = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    hole = hole_of(300, 400, 150, 200, 20, 20)
    frame = plan(hole, CONFIG)
    lifted = lift(image[frame.window], hole, frame)
    np.testing.assert_array_equal(lifted[frame.window], image[frame.window])


def test_large_hole_is_filled_from_a_smaller_canvas_without_shift():
    rows, columns = np.mgrid[0:300, 0:400]
    image = np.stack([rows * 0.8, columns * 0.6, rows * 0 + 40], axis=-1).astype(np.uint8)
    nothing = np.zeros((300, 400), bool)
    hole = hole_of(300, 400, 20, 20, 250, 300)
    frame = plan(hole, CONFIG)
    assert frame.kind == "resize"
    laid, _ = lay(image, nothing, frame)  # as if the network knew
    error = lift(laid, hole, frame).astype(float)[hole] - image[hole]
    assert np.abs(error).max() < 4


@pytest.mark.parametrize("bad", [(), (64, 32), (64, 64), (0, 32)])
def test_impossible_sides_are_refused(bad):
    with pytest.raises(ValueError, match="sides_px"):
        CanvasConfig(sides_px=bad)
