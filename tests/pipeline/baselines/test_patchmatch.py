import numpy as np
import pytest

from infill.pipeline.baselines import navier_stokes
from infill.pipeline.baselines.patchmatch import SIDE, _begin, _costs, _search, patchmatch


def checkered(side: int = 64, period: int = 8) -> np.ndarray:
    rows, columns = np.mgrid[0:side, 0:side]
    bright = (rows // (period // 2) + columns // (period // 2)) % 2
    return np.stack([60 + 120 * bright, 200 - 90 * bright, 40 + 30 * bright], -1).astype(np.uint8)


def hole_of(side: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    hole = np.zeros((side, side), np.uint8)
    hole[top:bottom, left:right] = 1
    return hole


def error(filled: np.ndarray, image: np.ndarray, hole: np.ndarray) -> float:
    return float(np.abs(filled[hole == 1].astype(int) - image[hole == 1].astype(int)).mean())


@pytest.mark.parametrize("box", [(20, 40, 24, 44), (0, 18, 30, 50), (44, 64, 44, 64)])
def test_a_repeating_pattern_is_continued(box):
    image, hole = checkered(), hole_of(64, *box)
    filled = patchmatch(image, hole)
    assert np.array_equal(filled[hole == 0], image[hole == 0])
    assert error(filled, image, hole) < error(navier_stokes(image, hole), image, hole) / 3


def test_the_same_picture_is_always_filled_alike():
    image, hole = checkered(), hole_of(64, 20, 40, 24, 44)
    assert np.array_equal(patchmatch(image, hole), patchmatch(image.copy(), hole.copy()))


def test_filled_colours_lie_among_the_known_ones():
    random = np.random.default_rng(6)
    image = random.integers(70, 140, (48, 48, 3), np.uint8)
    hole = hole_of(48, 10, 30, 12, 40)
    filled = patchmatch(image, hole)[hole == 1]
    assert filled.min() >= image[hole == 0].min()
    assert filled.max() <= image[hole == 0].max()


def test_where_no_whole_patch_is_known_diffusion_fills():
    image = checkered(20)
    hole = hole_of(20, 3, 17, 3, 17)  # The known frame is 3 px wide, a patch 7.
    filled = patchmatch(image, hole)
    assert np.abs(filled.astype(int) - navier_stokes(image, hole).astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(31, 47), (7, 7), (5, 90), (64, 33)])
def test_any_size_is_filled_and_keeps_what_is_known(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    hole = np.zeros(size, np.uint8)
    hole[size[0] // 3 : size[0] // 2 + 1, size[1] // 4 : size[1] // 2] = 1
    filled = patchmatch(image, hole)
    assert filled.shape == image.shape
    assert np.array_equal(filled[hole == 0], image[hole == 0])


def test_search_finds_what_an_exhaustive_search_finds_for_nearly_all_patches():
    random = np.random.default_rng(8)
    smooth = random.normal(128, 40, (10, 10, 3)).repeat(4, axis=0).repeat(4, axis=1)
    colours = (smooth + random.normal(0, 4, smooth.shape)).astype(np.float32)
    missing = hole_of(40, 14, 24, 14, 24) == 1
    field = _begin(missing, None, np.random.default_rng(0))
    assert field is not None
    for _ in range(8):
        _search(field, colours, random)
    choices = np.flatnonzero(field.known)
    least = np.array(
        [
            _costs(field, colours, choices, np.full(len(choices), target)).min()
            for target in field.targets
        ]
    )
    assert (field.costs >= least - 1e-2).all()
    assert (field.costs <= least * 1.05 + 1).mean() > 0.8


def test_cost_is_the_sum_of_squared_differences_of_two_patches():
    colours = np.random.default_rng(2).normal(100, 30, (24, 24, 3)).astype(np.float32)
    field = _begin(hole_of(24, 9, 14, 9, 14) == 1, None, np.random.default_rng(0))
    assert field is not None
    (row, column), (to_row, to_column) = divmod(field.targets[5], 24), divmod(field.sources[5], 24)
    reach = SIDE // 2
    one = colours[row - reach : row + reach + 1, column - reach : column + reach + 1]
    two = colours[to_row - reach : to_row + reach + 1, to_column - reach : to_column + reach + 1]
    expected = np.square(one.astype(np.float64) - two).sum()
    assert _costs(field, colours, field.sources)[5] == pytest.approx(expected, rel=1e-4)
