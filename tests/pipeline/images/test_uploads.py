"""What is sent to a service as it is, and what becomes a PNG first."""

import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import ImageError
from infill.pipeline.images.codec import encode_mask, encode_pixels, encode_png, is_upload
from infill.pipeline.images.conversion import as_upload, mask_as_upload

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def file(form: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    """Return pixels as a file of a format."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, form, **options)
    return sink.getvalue()


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats_of_the_service_are_sent_as_they_are(form: str) -> None:
    data = file(form)
    assert is_upload(data)
    assert as_upload(data, 100) is data
    assert mask_as_upload(data, 100) is data


@pytest.mark.parametrize("form", ["bmp", "tiff"])
def test_other_formats_become_a_png_of_the_same_pixels(form: str) -> None:
    data = file(form)
    assert not is_upload(data)
    for sent in (as_upload(data, 100), mask_as_upload(data, 100)):
        with Image.open(io.BytesIO(sent)) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert np.array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_mask_keeps_its_levels_and_its_opacity(channels: int) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (6, 9, channels), np.uint8)
    data = file("tiff", levels[..., 0] if channels == 1 else levels)
    with Image.open(io.BytesIO(mask_as_upload(data, 100))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image).reshape(levels.shape), levels)


def test_a_png_of_16_bits_becomes_one_of_8() -> None:
    deep = file("png", (PIXELS[..., 0].astype(np.uint16) * 257))
    assert not is_upload(deep)
    with Image.open(io.BytesIO(as_upload(deep, 100))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB"))[..., 1], PIXELS[..., 0])


def test_a_container_that_is_no_webp_is_not_sent() -> None:
    assert not is_upload(b"RIFF\x00\x00\x00\x00WAVE")
    assert not is_upload(b"XXXX\x00\x00\x00\x00WEBP")


def test_what_cannot_be_read_is_refused_with_its_reason() -> None:
    with pytest.raises(ImageError, match="the image is not an image of a known format") as refused:
        as_upload(b"BM no image", 100)
    assert refused.value.code == "unsupported_image"
    for convert, name in ((as_upload, "image"), (mask_as_upload, "mask")):
        with pytest.raises(ImageError, match=f"the {name}'s 9 x 6 pixels.*53"):
            convert(file("bmp"), 53)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_are_kept_by_png(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(io.BytesIO(encode_pixels(pixels))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_png_of_masks_and_pixels_are_exact() -> None:
    hole = PIXELS[..., 0] > 127
    for values in (hole, hole.astype(np.uint8)):
        with Image.open(io.BytesIO(encode_mask(values))) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            assert np.array_equal(np.asarray(image), np.where(hole, 255, 0))
    with Image.open(io.BytesIO(encode_png(PIXELS))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), PIXELS)
