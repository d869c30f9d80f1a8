import numpy as np
import pytest

from infill.pipeline.baselines import BASELINES, load_baseline, mean_fill
from infill.pipeline.errors import UserError


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 5, columns * 4, rows + columns], axis=-1).astype(np.uint8)


def square_hole(height: int = 40, width: int = 56) -> np.ndarray:
    hole = np.zeros((height, width), np.uint8)
    hole[10:26, 16:36] = 1
    return hole


def test_mean_fill_is_the_rounded_mean_of_known_pixels_per_channel():
    image, hole = picture(), square_hole()
    expected = [
        round(
            sum(
                int(image[y, x, channel])
                for y in range(40)
                for x in range(56)
                if not (10 <= y < 26 and 16 <= x < 36)
            )
            / (40 * 56 - 16 * 20)
        )
        for channel in range(3)
    ]
    filled = mean_fill(image, hole)
    assert (filled[hole == 1] == expected).all()
    assert (filled[hole == 0] == image[hole == 0]).all()


@pytest.mark.parametrize("name", BASELINES)
def test_hidden_pixels_never_reach_a_baseline(name: str):
    image, hole = picture(), square_hole()
    other = image.copy()
    other[hole == 1] = 255 - other[hole == 1]
    before = other.copy()
    method = load_baseline(name)
    assert np.array_equal(method(image, hole), method(other, hole))
    assert np.array_equal(other, before), "the caller's image was written to"


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_known_gives_mid_grey_and_no_hole_gives_the_image(name: str):
    image = picture()
    method = load_baseline(name)
    assert (method(image, np.ones((40, 56), np.uint8)) == 128).all()
    assert np.array_equal(method(image, np.zeros((40, 56), np.uint8)), image)


def test_a_baseline_that_looks_into_the_hole_or_writes_sees_and_changes_nothing(monkeypatch):
    def cheat(image, hole):
        seen = image.copy()
        image[:], hole[:] = 0, 0
        return seen

    monkeypatch.setitem(BASELINES, "cheat", cheat)
    image, hole = picture(), square_hole()
    filled = load_baseline("cheat")(image, hole)
    assert (filled[hole == 1] == 128).all()
    assert np.array_equal(filled[hole == 0], image[hole == 0])
    assert np.array_equal(image, picture())
    assert np.array_equal(hole, square_hole())


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda p: p[:-1], r"uint8 \[39, 56, 3\]"), (lambda p: p / 255, r"float64 \[40, 56, 3\]")],
)
def test_a_baseline_of_another_size_or_type_is_refused_by_name(monkeypatch, change, found):
    monkeypatch.setitem(BASELINES, "odd", lambda image, hole: change(image))
    with pytest.raises(ValueError, match=rf"odd must return uint8 \[40, 56, 3\], not {found}"):
        load_baseline("odd")(picture(), square_hole())


@pytest.mark.parametrize("name", ["mean-fill", "telea", "navier-stokes"])
def test_swapping_red_and_blue_swaps_them_in_the_prediction(name: str):
    image, hole = picture(), square_hole()
    swapped = BASELINES[name](np.ascontiguousarray(image[..., ::-1]), hole)
    assert np.array_equal(swapped[..., ::-1], BASELINES[name](image, hole))


@pytest.mark.parametrize("name", ["telea", "navier-stokes"])
def test_inpainting_continues_a_smooth_ramp_better_than_the_mean(name: str):
    image, hole = picture(), square_hole()

    def error(filled: np.ndarray) -> float:
        return float(np.abs(filled[hole == 1].astype(int) - image[hole == 1].astype(int)).mean())

    assert error(BASELINES[name](image, hole)) < error(mean_fill(image, hole)) / 2


def test_telea_and_navier_stokes_are_two_methods():
    image, hole = picture(), square_hole()
    image[::3] //= 2
    telea, navier_stokes = BASELINES["telea"], BASELINES["navier-stokes"]
    assert not np.array_equal(telea(image, hole), navier_stokes(image, hole))


def test_unknown_baseline_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'photoshop'.*mean-fill, .*patchmatch"):
        load_baseline("photoshop")
