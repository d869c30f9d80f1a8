import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.image_grid import (
    HOLE_COLOUR,
    encode_png,
    grid,
    masked_view,
    sample_grid,
)
from infill.pipeline.images import composite


def pictures(count: int, height: int = 130, width: int = 140) -> np.ndarray:
    # Never white, never black: background and text differ from content.
    return np.random.default_rng(5).integers(60, 190, (count, height, width, 3), np.uint8)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_masked_view_paints_the_hole_and_keeps_the_rest():
    image = pictures(1)[0]
    hole = np.zeros((130, 140), np.uint8)
    hole[4:9, 7:20] = 1
    view = masked_view(image, hole)
    assert (view[4:9, 7:20] == HOLE_COLOUR).all()
    assert np.array_equal(view[hole == 0], image[hole == 0])


def test_grid_holds_every_picture_untouched_in_its_cell():
    cells = pictures(6)
    sheet = opened(grid([cells[:3], cells[3:]]))
    assert sheet.shape == (2 * 12 + 2 * 130 + 6, 2 * 12 + 3 * 140 + 2 * 6, 3)
    for index, cell in enumerate(cells):
        y, x = 12 + index // 3 * 136, 12 + index % 3 * 146
        assert np.array_equal(sheet[y : y + 130, x : x + 140], cell)


def test_titles_and_captions_add_ink_outside_the_pictures():
    cells = pictures(2)
    bare = opened(grid([cells]))
    written = opened(grid([cells], ["left", "right"], ["one caption"]))
    assert written.shape[0] > bare.shape[0]
    assert written.shape[1] == bare.shape[1]
    top = written[:30]
    assert (top[:, :150] < 60).any()
    assert (top[:, 160:] < 60).any()
    assert (written[-34:] < 140).any()
    assert (bare[:12] == 255).all()
    assert (bare[-12:] == 255).all()


def test_small_pictures_are_enlarged_by_whole_factors():
    small = pictures(1, 16, 30)
    sheet = opened(grid([small]))
    assert sheet.shape == (24 + 16 * 5, 24 + 30 * 5, 3)
    assert np.array_equal(sheet[12:-12:5, 12:-12:5], small[0])


def test_a_caption_too_long_stays_inside_the_sheet():
    cells = pictures(1)
    sheet = opened(grid([cells], captions=["word " * 200]))
    assert sheet.shape[1] == 24 + 140
    assert (sheet[:, -10:] == 255).all()


def test_sample_grid_shows_image_masked_input_prediction_composite():
    images, predictions = pictures(2)[:1], pictures(2)[1:]
    holes = np.zeros((1, 130, 140), np.uint8)
    holes[:, 30:80, 30:80] = 1
    sheet = opened(sample_grid(images, holes, predictions, ["key"]))
    top = next(y for y in range(60) if np.array_equal(sheet[y : y + 130, 12:152], images[0]))
    cells = [sheet[top : top + 130, x : x + 140] for x in (158, 304, 450)]
    assert np.array_equal(cells[0], masked_view(images[0], holes[0]))
    assert np.array_equal(cells[1], predictions[0])
    assert np.array_equal(cells[2], composite(predictions[0], images[0], holes[0]))


def test_the_same_pictures_give_the_same_bytes():
    cells = pictures(2)
    assert grid([cells], ["a", "b"], ["c"]) == grid([cells.copy()], ["a", "b"], ["c"])


def test_encoded_picture_is_read_back_exactly():
    picture = pictures(1)[0]
    assert np.array_equal(opened(encode_png(picture)), picture)


@pytest.mark.parametrize(
    ("rows", "titles", "captions", "complaint"),
    [
        ([], (), (), "at least one image"),
        ([[pictures(1)[0]], [pictures(1, 20, 20)[0]]], (), (), "of one size"),
        ([pictures(2), pictures(1)], (), (), "equally long"),
        ([pictures(2)], ("one",), (), "2 columns cannot carry 1 titles"),
        ([pictures(2)], (), ("a", "b"), "1 rows cannot carry 2 captions"),
    ],
)
def test_what_cannot_be_a_grid_is_refused(rows, titles, captions, complaint):
    with pytest.raises(ValueError, match=complaint):
        grid(rows, titles, captions)
