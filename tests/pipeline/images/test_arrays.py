"""Pixels as arrays, as images of Pillow, as masks, and as the values of networks."""

import numpy as np
import pytest
import torch
from PIL import Image

from infill.pipeline.errors import ImageError
from infill.pipeline.images import MaskRule, composite, decoded_image, grey, read_mask, to_pillow
from infill.pipeline.images.tensors import to_pixels, to_tensor, values_of, write_values

BRIGHT = [[False, False, True, True]]


def test_composite_takes_the_hole_from_the_prediction_and_the_rest_from_the_image():
    image, prediction = np.random.default_rng(5).integers(0, 256, (2, 30, 40, 3), np.uint8)
    hole = np.zeros((30, 40), np.uint8)
    hole[4:9, 7:20] = 1
    for marked in (hole, hole != 0):
        pasted = composite(prediction, image, marked)
        assert np.array_equal(pasted[4:9, 7:20], prediction[4:9, 7:20])
        assert np.array_equal(pasted[hole == 0], image[hole == 0])
        assert pasted.dtype == np.uint8
    both = composite(np.stack([prediction] * 2), np.stack([image] * 2), np.stack([hole] * 2))
    np.testing.assert_array_equal(both[1], pasted)


def test_grey_weighs_colours_as_bt_601_does():
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert grey(pixels).tolist() == [[76, 150, 29, 255]]


@pytest.mark.parametrize("shape", [(3,), (700, 1000, 3), (2, 500, 600, 3), (1, 2**19, 3)])
def test_grey_of_large_arrays_is_that_of_each_pixel(shape):
    pixels = np.random.default_rng(6).integers(0, 256, shape, np.uint8)
    expected = np.rint(pixels.astype(np.float64) @ [0.299, 0.587, 0.114])
    if len(shape) > 1:
        np.testing.assert_array_equal(grey(pixels), expected)
    else:
        assert grey(pixels[None]) == expected


def test_all_levels_survive_the_way_to_the_model_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([levels, levels[::-1], levels.T], axis=-1)[None]
    image = to_tensor(pixels)
    assert image.dtype == torch.float32
    assert (image.min().item(), image.max().item()) == (-1.0, 1.0)
    np.testing.assert_allclose(
        image[0, 0].numpy(), levels.astype(np.float64) / 127.5 - 1, atol=1e-7
    )
    assert to_pixels(image).dtype == np.uint8
    np.testing.assert_array_equal(to_pixels(image), pixels)
    np.testing.assert_array_equal(to_pixels(to_tensor(pixels[0])), pixels)


def test_values_outside_the_range_are_clamped():
    image = torch.tensor([-1.5, -0.999, 0.001, 7.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_pixels(image)[0, ..., 0].ravel().tolist() == [0, 0, 128, 255]


def test_values_are_written_in_place_with_red_first():
    values = np.zeros((3, 1, 2), np.float32)
    write_values(np.array([[[255, 0, 0], [0, 51, 255]]], np.uint8), values)
    np.testing.assert_allclose(values[:, 0], [[1, -1], [-1, -0.6], [-1, 1]], atol=1e-7)


def test_opacity_and_grey_are_no_input_of_a_network():
    for channels in (1, 4):
        with pytest.raises(ValueError, match="argument 2"):
            to_tensor(np.zeros((2, 2, channels), np.uint8))


def test_values_stay_on_the_device_of_their_levels():
    levels = torch.zeros((2, 4, 5, 3), dtype=torch.uint8, device="meta")
    values = values_of(levels)
    assert (values.device.type, values.shape, values.dtype) == ("meta", (2, 3, 4, 5), torch.float32)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_image_of_pillow_becomes_a_picture_and_an_image_again(mode):
    noise = np.random.default_rng(1).integers(0, 256, (7, 9, 4), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    image.info["icc_profile"] = b"profile"
    picture = decoded_image(image)
    assert (picture.pixels.shape, picture.format) == ((7, 9, len(mode)), "png")
    back = to_pillow(picture)
    assert (back.mode, back.info["icc_profile"]) == (mode, b"profile")
    np.testing.assert_array_equal(np.asarray(back), np.asarray(image))


def test_ink_and_single_bits_of_pillow_become_plain_and_deep_ones_are_refused():
    ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert decoded_image(ink).pixels[0, 0].tolist() == [0, 255, 255]
    assert decoded_image(Image.new("1", (4, 4), 1)).pixels[0, 0].tolist() == [255]
    for mode in ("I", "I;16", "F"):
        for named, name in (((), "image"), (("mask",), "mask")):
            with pytest.raises(ImageError, match=f"the {name} has mode {mode}: convert") as caught:
                decoded_image(Image.new(mode, (4, 4)), *named)
            assert caught.value.code == "unsupported_image"


def test_premultiplied_opacity_of_pillow_becomes_plain():
    for mode, levels in (("LA", (200, 102)), ("RGBA", (200, 100, 50, 102))):
        premultiplied = Image.new(mode, (2, 1), levels).convert(mode.replace("A", "a"))
        assert decoded_image(premultiplied).pixels.tolist() == [[[*levels]] * 2]


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_images_and_masks_without_pixels_are_refused(size, mode):
    image = Image.new(mode, size)
    with pytest.raises(ImageError, match=f"the mask has no pixels: it is {size[0]} × {size[1]}"):
        decoded_image(image, "mask")
    for kind in (np.uint8, bool, np.float32):
        for shape in (size, (*size, 1), (*size, 4)):
            with pytest.raises(ImageError, match=r"a mask is \[H, W\] or") as caught:
                read_mask(np.zeros(shape, kind))
            assert caught.value.code == "bad_request"


def test_profile_of_ink_does_not_go_with_light():
    ink = Image.new("CMYK", (4, 4))
    ink.info["icc_profile"] = b""
    assert decoded_image(ink).profile is None


def test_arrays_are_masks_by_the_rule_of_files():
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    arrays = [levels, levels[..., None], np.stack([levels] * 3, axis=-1), levels > 127]
    arrays += [(levels / 255).astype(kind) for kind in ("float16", "float32", "float64")]
    for array in arrays:
        assert read_mask(array, MaskRule()).tolist() == BRIGHT
        assert (~read_mask(array, MaskRule(polarity="black"))).tolist() == BRIGHT
    clear = np.stack([levels, np.zeros_like(levels)], axis=-1)  # grey and alpha
    assert read_mask(clear, MaskRule()).tolist() == BRIGHT
    for whole in (np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)):
        with pytest.raises(ImageError, match="nothing is marked as hole"):
            read_mask(whole, MaskRule())
    labels = np.array([[0, 1, 1, 1]], np.uint8)
    assert read_mask(labels, MaskRule(threshold=0)).tolist() == [[False, True, True, True]]
    with pytest.raises(ImageError, match="values are 0 and 1: give"):
        read_mask(labels, MaskRule(threshold=1))


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.eye(3, dtype=np.uint8), "values are 0 and 1"),
        (np.eye(3, dtype=np.int64), "the mask is int64"),
        (np.eye(3, dtype=np.uint16), "values are 0 and 1"),
        (np.eye(3) * 1.01, "the mask's values are 0 to 1.01: floating masks are in 0 to 1"),
        (np.eye(3) - 0.5, "the mask's values are -0.5 to 0.5"),
        (np.eye(3) * np.nan, "the mask's values are nan to nan"),
        (np.zeros((3, 3, 5), np.uint8), "a mask is .H, W. or .H, W, C., not"),
        (np.zeros(3, np.uint8)[None, None, None], "a mask is"),
    ],
)
def test_arrays_that_are_no_masks_are_refused(array, sentence):
    with pytest.raises(ImageError, match=sentence) as caught:
        read_mask(array, MaskRule())
    assert caught.value.code == "bad_request"
