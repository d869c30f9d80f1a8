import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from skimage.color import lab2rgb

from infill.pipeline.errors import ImageError
from infill.pipeline.images import (
    decode,
    decoded_image,
    encode,
    encode_mask,
    encode_png,
    fill_in,
    grey,
    read_header,
    upright_size,
)
from infill.pipeline.serving.errors import RequestError, image_errors_refused

LIMIT = 1_000_000


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("form", ["png", "webp"])
def test_known_pixels_return_bit_for_bit_in_the_image_s_own_channels(make, form, channels):
    pixels = make.photograph(37, 53, channels)
    hole = make.hole(37, 53, slice(5, 20), slice(9, 30))
    prediction = np.full((37, 53, 3), 200, np.uint8)
    picture = decode(make.file(pixels), LIMIT)
    returned = make.pixels(encode(fill_in(picture, hole, prediction), form)).reshape(37, 53, -1)
    if form == "png":
        assert returned.shape[2] == channels
    colours = returned[..., : 1 if returned.shape[2] < 3 else 3]
    expected = np.broadcast_to(pixels[..., : 1 if channels < 3 else 3], colours.shape)
    np.testing.assert_array_equal(colours[~hole], expected[~hole])
    assert (colours[hole] == 200).all()
    if channels in (2, 4):
        np.testing.assert_array_equal(returned[..., -1][~hole], pixels[..., -1][~hole])
        assert (returned[..., -1][hole] == 255).all()


def test_orientation_is_applied_and_not_repeated(make):
    upright = make.photograph(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    stored = np.ascontiguousarray(np.rot90(upright))
    picture = decode(make.file(stored, exif=exif), LIMIT)
    np.testing.assert_array_equal(picture.pixels, upright)
    answer = Image.open(io.BytesIO(encode(picture, "png")))
    assert answer.size == (30, 20)
    assert answer.getexif().get(0x0112) is None


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_colour_profile_returns_with_the_result(make, form):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = decode(make.file(make.photograph(8, 8), icc_profile=profile), LIMIT)
    answer = Image.open(io.BytesIO(encode(picture, form)))
    assert answer.info["icc_profile"] == profile


def test_palettes_bits_and_ink_become_plain_colours(make):
    rgb = make.photograph(16, 16) // 64 * 64
    sink = io.BytesIO()
    Image.fromarray(rgb).quantize(64).save(sink, "png")
    np.testing.assert_array_equal(
        decode(sink.getvalue(), LIMIT).pixels,
        np.asarray(Image.open(io.BytesIO(sink.getvalue())).convert("RGB")),
    )
    sink = io.BytesIO()
    Image.fromarray(rgb[..., 0] > 100).save(sink, "png")
    assert set(np.unique(decode(sink.getvalue(), LIMIT).pixels)) == {0, 255}
    sink = io.BytesIO()
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(sink, "jpeg")
    assert decode(sink.getvalue(), LIMIT).pixels[4, 4].tolist() == pytest.approx([0, 255, 255], 5)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_colour_that_is_named_as_transparent_becomes_opacity(make, mode):
    rgb = Image.fromarray(make.photograph(8, 8) // 64 * 64)
    image = rgb.quantize(16) if mode == "P" else rgb.convert(mode)
    named = image.getpixel((2, 3))
    sink = io.BytesIO()
    image.save(sink, "png", transparency=1 if mode == "1" and named else named)
    pixels = decode(sink.getvalue(), LIMIT).pixels
    assert pixels.shape[2] == (2 if mode in ("1", "L") else 4)
    shown = [[image.getpixel((x, y)) != named for x in range(8)] for y in range(8)]
    np.testing.assert_array_equal(pixels[..., -1], 255 * np.array(shown))
    grey_or_rgb = np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))
    np.testing.assert_array_equal(pixels[..., :-1].squeeze(), grey_or_rgb)
    header = read_header(sink.getvalue())
    assert (header.plain, header.mode) == (False, mode)


def test_palette_with_opacity_becomes_colours_with_opacity():
    image = Image.new("PA", (2, 1))
    image.putpalette([9, 8, 7, 60, 70, 80])
    image.putpixel((0, 0), (1, 100))
    image.putpixel((1, 0), (0, 255))
    assert decoded_image(image).pixels.tolist() == [[[60, 70, 80, 100], [9, 8, 7, 255]]]


def ink_profile(corners: np.ndarray) -> bytes:
    """Return an ICC profile of CMYK inks: a table with two steps an axis (lut8Type of ICC.1).

    Args:
        corners: [2, 2, 2, 2, 3] uint8, by cyan, magenta, yellow and black: Lab as ICC encodes it.
    """
    identity, ramp = struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).flat), bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity
    table += ramp * 4 + corners.tobytes() + ramp * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 4) + b"ink\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    right = b"text" + bytes(4) + b"none\0"
    tags = {b"A2B0": table, b"desc": text, b"wtpt": white, b"cprt": right}
    at, listed, bodies = 128 + 4 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        listed += name + struct.pack(">II", at + len(bodies), len(body))
        bodies += body
    size = at + len(bodies)
    header = struct.pack(
        ">I4sI4s4s4s12x4s", size, b"test", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + listed + bodies


@pytest.mark.parametrize("from_pillow", [False, True])
def test_ink_is_converted_by_the_profile_of_its_file(from_pillow):
    """The press of this profile prints cyan ink as a dark red: no plain formula would say so."""
    lab = np.empty((2, 2, 2, 2, 3), np.uint8)
    lab[:] = (255, 128, 128)
    lab[1] = (102, 178, 158)  # L* 40, a* 50, b* 30
    lab[..., 1, :] = (0, 128, 128)
    sink = io.BytesIO()
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image.save(sink, "tiff" if from_pillow else "jpeg", icc_profile=ink_profile(lab), quality=100)
    opened = Image.open(io.BytesIO(sink.getvalue()))
    picture = decoded_image(opened) if from_pillow else decode(sink.getvalue(), LIMIT)
    assert picture.profile is None
    white, red = picture.pixels[4, 1].tolist(), picture.pixels[4, 6].tolist()
    assert white == pytest.approx([255, 255, 255], abs=2)
    assert red == pytest.approx(lab2rgb((40.0, 50.0, 30.0)) * 255, abs=4)


def test_png_of_pixels_is_whole_and_the_same_each_time(make):
    pixels = make.photograph(9, 14)
    data = encode_png(pixels)
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(opened), pixels)
    assert encode_png(pixels.copy()) == data


def png_claiming(width: int, height: int, depth: int = 8) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10))


def animated(make) -> bytes:
    sink = io.BytesIO()
    frames = [Image.fromarray(make.photograph(8, 8, seed=seed)) for seed in range(2)]
    frames[0].save(sink, "webp", save_all=True, append_images=frames[1:], lossless=True)
    return sink.getvalue()


def bitmap(make) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(make.photograph(8, 8)).save(sink, "bmp")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (lambda make: b"", 400, "bad_request"),
        (lambda make: b"no image at all", 415, "unsupported_image"),
        (lambda make: bitmap(make)[:-20], 400, "damaged_image"),
        (lambda make: animated(make)[:-20], 400, "damaged_image"),
        (lambda make: png_claiming(8, 8, depth=16), 400, "damaged_image"),
        (lambda make: png_claiming(60_000, 60_000, depth=16), 413, "too_many_pixels"),
        (lambda make: png_claiming(60_000, 60_000), 413, "too_many_pixels"),
        (lambda make: png_claiming(0, 8), 400, "damaged_image"),
        (lambda make: png_claiming(8, 8), 400, "damaged_image"),
        (lambda make: make.file(make.photograph(64, 64))[:-200], 400, "damaged_image"),
        (lambda make: make.file(make.photograph(64, 64), "jpeg")[:600], 400, "damaged_image"),
        (lambda make: make.file(make.photograph(64, 64), "webp")[:600], 400, "damaged_image"),
        (lambda make: b"RIFF\x00\x00\x00\x00WEBPVP8X", 400, "damaged_image"),
        (lambda make: b"\xff\xd8\xff", 400, "damaged_image"),
    ],
)
def test_files_that_cannot_be_accepted_are_refused_by_name(make, data, status, code):
    with pytest.raises(RequestError) as caught, image_errors_refused():
        decode(data(make), LIMIT)
    assert (caught.value.status_code, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the {} is empty"),
        (b"no picture", "the {} is not an image of a known format: send PNG, JPEG or WebP"),
        (
            png_claiming(11, 10),
            "the {} is 11 × 10, 110 pixels; at most 100 are accepted: send it smaller",
        ),
        (png_claiming(8, 8)[:26], "the {} is damaged: it cannot be decoded to its end"),
    ],
)
def test_a_header_that_cannot_be_accepted_is_refused_by_the_field_s_name(data, sentence):
    for named, name in (((), "image"), (("mask",), "mask")):
        with pytest.raises(ImageError) as caught:
            upright_size(data, 100, *named)
        assert str(caught.value) == sentence.format(name)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_pixels_are_counted_before_they_are_decoded(make, form, options):
    file = make.file(make.photograph(50, 41), form, **options)
    assert decode(file, 50 * 41).pixels.shape == (50, 41, 3)
    with pytest.raises(ImageError, match="41 × 50, 2,050 pixels; at most 2,049"):
        decode(file[: len(file) // 2], 50 * 41 - 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged tags
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["png", "jpeg", "webp", "bmp", "gif", "tiff"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 400),
)
def test_damaged_files_are_decoded_or_refused_and_nothing_else(make, form, changes, cut):
    data = bytearray(make.file(make.photograph(24, 24), form))
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(ImageError):
        picture = decode(bytes(data[: len(data) - cut]), LIMIT)
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape[2] in (1, 2, 3, 4)


def test_jpeg_of_a_transparent_image_is_refused(make):
    with pytest.raises(ImageError, match="which JPEG cannot store"):
        encode(decode(make.file(make.photograph(8, 8, 4)), LIMIT), "jpeg")


def test_refusals_survive_the_trip_between_processes(make):
    import pickle

    refusal = pickle.loads(pickle.dumps(RequestError(503, "busy", "later", 7)))
    assert (refusal.status_code, refusal.code, refusal.detail) == (503, "busy", "later")
    assert refusal.headers == {"Retry-After": "7"}


def test_jpeg_is_written_at_quality_95_with_full_colour(make):
    picture = decode(make.file(make.photograph(32, 32)), LIMIT)
    written = Image.open(io.BytesIO(encode(picture, "jpeg")))
    wanted = Image.open(
        io.BytesIO(make.file(picture.pixels, "jpeg", quality=95, subsampling="4:4:4"))
    )
    assert written.quantization == wanted.quantization
    assert [layer[1:3] for layer in written.layer] == [(1, 1)] * 3


@pytest.mark.parametrize(
    ("form", "best"),
    [
        ("png", {"compress_level": 1}),
        ("jpeg", {"quality": 95, "subsampling": 0}),
        ("webp", {"lossless": True, "quality": 20, "method": 1, "exact": True}),
    ],
)
@pytest.mark.parametrize("quality", [None, 0, 1, 60, 99, 100])
def test_files_equal_those_of_pillow_for_every_quality(make, form, best, quality):
    """Without losses only effort is spared; no quality is lower than 1, and PNG has none."""
    pixels = make.photograph(24, 24).repeat(4, axis=0).repeat(4, axis=1)
    lossy = quality is not None and quality < 100 and form != "png"
    expected = make.file(pixels, form, **({"quality": max(quality, 1)} if lossy else best))
    assert encode(decode(make.file(pixels), LIMIT), form, quality) == expected


def test_masks_and_pngs_of_pixels_equal_those_of_pillow(make):
    pixels = make.photograph(8, 8).repeat(4, axis=0).repeat(4, axis=1)
    assert encode_png(pixels) == make.file(pixels)
    hole = pixels[..., 0] > 127
    for marked in (hole, hole.astype(np.uint8)):
        assert encode_mask(marked) == make.file(hole, compress_level=1)
        written = Image.open(io.BytesIO(encode_mask(marked, one_bit=True)))
        assert written.mode == "1"
        np.testing.assert_array_equal(np.asarray(written), hole)


def test_composite_keeps_colours_format_and_profile(make):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = decode(make.file(make.photograph(8, 8), "webp", icc_profile=profile), LIMIT)
    hole = make.hole(8, 8, slice(2, 5), slice(1, 4))
    prediction = make.photograph(8, 8, seed=5)
    composite = fill_in(picture, hole, prediction)
    np.testing.assert_array_equal(composite.pixels[hole], prediction[hole])
    assert (composite.format, composite.profile) == ("webp", profile)


def test_transparent_jpeg_is_refused_by_name(make):
    with pytest.raises(ImageError) as caught:
        encode(decode(make.file(make.photograph(8, 8, 4)), LIMIT), "jpeg")
    sentence = "this image has transparency, which JPEG cannot store: request png or webp"
    assert (caught.value.code, str(caught.value)) == ("bad_request", sentence)


def test_grey_is_of_eight_bits():
    brightness = grey(np.full((2, 3, 3), 200, np.uint8))
    assert (brightness.dtype, brightness.shape) == (np.uint8, (2, 3))
