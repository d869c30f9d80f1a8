"""One rule separates hole and known pixels in every mask file, wherever it comes from."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import ImageError
from infill.pipeline.images import MaskRule, encode_mask, read_mask

VALUES = np.array([[0, 127, 128, 255]], np.uint8)
BRIGHT = [[False, False, True, True]]
UPLOAD, OWN = MaskRule(), MaskRule(any_format=True)


def saved(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.mark.parametrize("any_format", [False, True])
def test_mask_is_hole_where_brighter_than_127_and_polarity_turns_it(any_format):
    coloured = np.stack([VALUES] * 3, axis=-1)
    clear = np.concatenate([coloured, np.zeros((1, 4, 1), np.uint8)], axis=-1)  # ignored
    for pixels in (VALUES, coloured, clear):
        file = saved(Image.fromarray(pixels))
        assert read_mask(file, MaskRule(any_format=any_format)).tolist() == BRIGHT
        black = MaskRule(white_is_hole=False, any_format=any_format)
        assert read_mask(file, black).tolist() == [[True, True, False, False]]


def test_brightness_weighs_colours_as_bt_601_does():
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 0]]], np.uint8)
    expected = [[False, True, False, True]]  # 76, 150, 29 and 130
    for rule in (UPLOAD, OWN):
        assert read_mask(saved(Image.fromarray(pixels)), rule).tolist() == expected


def test_both_readers_give_the_same_hole_for_every_file_that_both_read():
    noise = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    coloured = Image.fromarray(cv2.GaussianBlur(noise, (9, 9), 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [saved(coloured.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    files += [
        saved(coloured, "jpeg"),
        saved(coloured.convert("L"), "jpeg"),
        saved(coloured, "webp"),
    ]
    files += [saved(coloured, exif=exif), saved(coloured, "jpeg", exif=exif)]
    for file in files:
        np.testing.assert_array_equal(read_mask(file, UPLOAD), read_mask(file, OWN))


@pytest.mark.parametrize("kind", ["bmp", "gif", "tiff"])
def test_other_formats_are_read_from_own_files_and_refused_as_uploads(kind):
    file = saved(Image.fromarray(VALUES), kind)
    assert read_mask(file, OWN).tolist() == BRIGHT
    with pytest.raises(ImageError, match="^the mask is not a PNG"):
        read_mask(file, UPLOAD)


def test_sixteen_bits_keep_their_high_byte_in_own_files():
    deep = VALUES.astype(np.uint16) * 256 + 255
    for pixels in (deep, np.stack([deep] * 3, axis=-1)):
        file = cv2.imencode(".png", pixels)[1].tobytes()
        assert read_mask(file, OWN).tolist() == BRIGHT
        with pytest.raises(ImageError, match="16 bits"):
            read_mask(file, UPLOAD)


@pytest.mark.parametrize("rule", [MaskRule(max_pixels=3), MaskRule(max_pixels=3, any_format=True)])
def test_larger_and_damaged_masks_are_refused(rule):
    file = saved(Image.fromarray(VALUES))
    with pytest.raises(ImageError, match="pixels"):
        read_mask(file, rule)
    for data in (b"", b"no picture", file[:-20]):
        with pytest.raises(ImageError, match="mask"):
            read_mask(data, rule)


def test_written_mask_reads_back():
    hole = np.random.default_rng(1).random((9, 14)) < 0.3
    for array in (hole, hole.astype(np.uint8)):
        np.testing.assert_array_equal(read_mask(encode_mask(array), UPLOAD), hole)
