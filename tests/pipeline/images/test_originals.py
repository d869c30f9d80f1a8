import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from infill.pipeline.images import (
    RejectedError,
    decode,
    decode_original,
    decode_sample,
    encode_sample,
    read_header,
)
from infill.pipeline.images.headers import _NoLimitOfPillow
from infill.pipeline.images.originals import WIDEST_PX, _jpeg_is_whole

LIMIT = 10**6


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth RGB picture, different in all four corners."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [rows * 4 + 20, columns * 3 + 30, 230 - rows * 2 - columns * 1.5]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(data: bytes) -> tuple[np.ndarray, bool]:
    """Return RGB pixels and whether the bytes are plain."""
    header = read_header(data, LIMIT)
    return decode_original(data, header), header.plain


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 3.0) -> bool:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(float) - expected).mean()) < tolerance


@pytest.mark.parametrize(("kind", "plain"), [("JPEG", True), ("PNG", True), ("WEBP", True)])
def test_plain_picture_is_kept_and_reads_the_same_through_opencv(kind: str, plain: bool) -> None:
    data = encoded(Image.fromarray(picture()), kind, quality=95)
    found, is_plain = read(data)
    assert is_plain is plain
    assert close(found, picture())
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(found.astype(int) - by_opencv).max() <= 2


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "GIF", "JPEG2000"])
def test_other_formats_are_read_and_encoded_anew(kind: str) -> None:
    image = Image.fromarray(picture())
    found, plain = read(encoded(image.quantize() if kind == "GIF" else image, kind))
    assert not plain
    assert close(found, picture(), 6.0 if kind == "GIF" else 3.0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_of_exif_is_undone(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = picture()
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    data = encoded(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif)
    header = read_header(data, LIMIT)
    assert (header.height_px, header.width_px) == (40, 60)
    assert close(decode_original(data, header), upright)
    if header.plain:
        by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert close(by_opencv, upright)


def test_cmyk_becomes_rgb() -> None:
    found, plain = read(encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95))
    assert not plain
    assert close(found, picture())


def test_grey_is_plain_and_has_three_equal_channels() -> None:
    grey = Image.fromarray(picture()).convert("L")
    for kind in ("JPEG", "PNG"):
        found, plain = read(encoded(grey, kind))
        assert plain
        assert close(found, np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_spans_black_to_white(bits: int) -> None:
    levels = np.arange(64).reshape(8, 8) % 2**bits
    packed = np.packbits(
        (levels[:, :, None] >> np.arange(bits)[::-1] & 1).reshape(8, -1).astype(np.uint8), axis=1
    )
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    found, plain = read(png(8, 8, bits, 0, rows))
    assert not plain
    np.testing.assert_array_equal(found[:, :, 0], np.round(levels * 255 / (2**bits - 1)))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_scaled_and_rounded(suffix: str, channels: int) -> None:
    deep = np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint16) * 21
    if channels == 4:
        stored = np.concatenate([deep, np.full((32, 32, 1), 65535, np.uint16)], axis=2)
    else:
        stored = deep[:, :, :channels]
    data = cv2.imencode(suffix, np.ascontiguousarray(stored))[1].tobytes()
    found, plain = read(data)
    assert not plain
    expected = np.floor(deep.astype(np.float64) * 255 / 65535 + 0.5)
    if channels == 1:
        expected = np.repeat(expected[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(found, expected[:, :, ::-1])


def test_palette_shows_its_colours() -> None:
    palette = Image.fromarray(picture()).quantize(64)
    found, plain = read(encoded(palette, "PNG"))
    assert not plain
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode: str) -> None:
    image = Image.fromarray(picture()).convert("RGBA")
    image.putalpha(
        Image.fromarray(
            np.where(np.arange(60) < 30, 0, 255).astype(np.uint8)[None].repeat(40, axis=0)
        )
    )
    image = image.quantize(32) if mode == "P" else image.convert(mode)
    found, plain = read(encoded(image, "PNG"))
    assert not plain
    assert (found[:, :30] == 255).all()
    assert not (found[:, 30:] == 255).all()


def test_half_transparent_pixels_are_blended_over_white() -> None:
    pixels = np.full((8, 8, 4), (100, 0, 200, 51), np.uint8)
    found, _ = read(encoded(Image.fromarray(pixels), "PNG"))
    # alpha is 51 / 255 = 0.2: 0.2 * (100, 0, 200) + 0.8 * 255
    assert found[0, 0].tolist() == [224, 204, 244]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animation_shows_its_first_frame(kind: str) -> None:
    frames = [Image.fromarray(np.roll(picture(), 17 * n, axis=1)) for n in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    found, plain = read(data)
    assert not plain
    assert close(found, picture(), 6.0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_truncated_picture_is_refused(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(RejectedError):
        read(data[: int(len(data) * kept)])


def test_truncated_jpeg_with_a_thumbnail_is_refused() -> None:
    thumbnail = encoded(Image.fromarray(picture(16, 16)), "JPEG")
    whole = encoded(Image.fromarray(picture()), "JPEG", comment=thumbnail)
    assert close(read(whole)[0], picture())
    with pytest.raises(RejectedError, match="truncated"):
        read(whole[:-40])


def test_progressive_jpeg_is_plain() -> None:
    data = encoded(Image.fromarray(picture()), "JPEG", progressive=True, quality=95)
    assert read(data)[1]


def test_bytes_behind_a_jpeg_do_no_harm() -> None:
    data = encoded(Image.fromarray(picture()), "JPEG", quality=95)
    assert close(read(data + b"trailer of a telephone")[0], picture())


def test_camera_picture_with_a_second_frame_is_kept() -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(picture()[::-1])]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    header = read_header(data, LIMIT)
    assert header.format == "MPO"
    assert header.plain
    assert close(decode_original(data, header), picture())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not a picture at all" * 20, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        read(data)


def test_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = png(30_000, 30_000, 8, 2, b"\0" * 1000)
    with pytest.raises(RejectedError, match="30000 x 30000 pixels are more than max_pixels"):
        read_header(bomb, 100_000_000)


def test_limit_of_pillow_is_back_once_the_last_reader_ends() -> None:
    limit, before = _NoLimitOfPillow(), Image.MAX_IMAGE_PIXELS
    assert before is not None
    with limit:
        with limit:
            assert Image.MAX_IMAGE_PIXELS is None
        assert Image.MAX_IMAGE_PIXELS is None
    assert before == Image.MAX_IMAGE_PIXELS


def test_limit_beyond_that_of_pillow_is_honoured() -> None:
    header = read_header(png(20_000, 20_000, 8, 2, b"\0" * 1000), 500_000_000)
    assert header.width_px == 20_000


def test_floating_point_picture_is_refused() -> None:
    with pytest.raises(RejectedError, match="of unknown range"):
        read(encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"))


SEEDS = {
    kind: encoded(Image.fromarray(picture(24, 32)), kind)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    end=st.integers(0, 5000),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_a_reason(
    kind: str, edits: list[tuple[int, int]], end: int
) -> None:
    data = bytearray(SEEDS[kind][: max(end, 1)])
    for position, value in edits:
        data[position % len(data)] = value
    try:
        header = read_header(bytes(data), LIMIT)
        found = decode_original(bytes(data), header)
    except RejectedError:
        return
    assert found.dtype == np.uint8
    assert found.shape == (header.height_px, header.width_px, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_encoded_picture_reads_back(suffix: str) -> None:
    data = encode_sample(picture(), suffix, 95)
    found, plain = read(data)
    assert plain
    assert close(found, picture(), 0.01 if suffix == "png" else 3.0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_encoded_bytes_are_those_of_opencv_for_the_same_colours(suffix: str) -> None:
    flags = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, 80], "webp": [cv2.IMWRITE_WEBP_QUALITY, 80]}
    blue_first = np.ascontiguousarray(picture()[:, :, ::-1])
    expected = cv2.imencode(f".{suffix}", blue_first, flags.get(suffix, []))[1].tobytes()
    assert encode_sample(picture(), suffix, 80) == expected
    window = picture(80, 90)[10:50, 20:80]  # a crop is encoded without a copy of it being made
    assert encode_sample(window, suffix, 80) == encode_sample(window.copy(), suffix, 80)


def test_fast_decoder_agrees_with_that_of_uploads() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (61, 83, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (7, 7), 2)
    for pixels in (noise, smooth, picture()):
        for options in ({"quality": 95, "subsampling": 0}, {"quality": 75}, {"progressive": True}):
            data = encoded(Image.fromarray(pixels), "JPEG", **options)
            fast = decode_sample(data)
            assert fast is not None
            assert np.abs(fast.astype(int) - decode(data, LIMIT).rgb).max() <= 1
            np.testing.assert_array_equal(fast, decode_original(data, read_header(data, LIMIT)))
        data = encoded(Image.fromarray(pixels), "PNG")
        np.testing.assert_array_equal(decode_sample(data), pixels)
        np.testing.assert_array_equal(decode(data, LIMIT).rgb, pixels)


def test_fast_decoder_answers_none_to_damaged_bytes() -> None:
    assert decode_sample(b"no picture") is None


@pytest.mark.parametrize("suffix", WIDEST_PX)
def test_the_widest_picture_of_a_format_is_encoded_and_a_wider_one_refused(suffix: str) -> None:
    widest = WIDEST_PX[suffix]
    for height, width in ((1, widest), (widest, 1)):
        data = encode_sample(np.zeros((height, width, 3), np.uint8), suffix, 90)
        assert decode_sample(data).shape == (height, width, 3)
    for height, width in ((1, widest + 1), (widest + 1, 1)):
        with pytest.raises(RejectedError, match=f"{width} x {height} .* more than {suffix} can"):
            encode_sample(np.zeros((height, width, 3), np.uint8), suffix, 90)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_first_image_of_a_16_bit_animation_is_read() -> None:
    values = np.random.default_rng(3).integers(0, 65536, (40, 50, 3), np.uint16)
    still = cv2.imencode(".png", values)[1].tobytes()
    control = struct.pack(">5I2H2B", 0, 50, 40, 0, 0, 1, 10, 0, 0)
    animated = (
        still[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", control) + still[33:]
    )
    expected = decode_original(still, read_header(still))
    np.testing.assert_array_equal(decode_original(animated, read_header(animated)), expected)
    assert expected.std() > 50


def tiff(values: np.ndarray, photometric: int, planes: int, extra: int | None) -> bytes:
    """Return a TIFF of 16-bit values, [H, W] or [H, W, C], in one strip per plane."""
    height, width = values.shape[:2]
    channels = values.reshape(height, width, -1).shape[2]
    parts = [values.astype("<u2").tobytes()]
    if planes == 2:
        parts = [values[..., at].astype("<u2").tobytes() for at in range(channels)]
    shorts: dict[int, tuple[int, ...]] = {
        **{256: (width,), 257: (height,), 258: (16,) * channels, 259: (1,), 262: (photometric,)},
        **{277: (channels,), 278: (height,), 284: (planes,)},
        **({338: (extra,)} if extra is not None else {}),
    }
    starts = [8 + sum(map(len, parts[:at])) for at in range(len(parts))]
    entries = {tag: ("H", 3, numbers) for tag, numbers in shorts.items()}
    entries |= {273: ("I", 4, tuple(starts)), 279: ("I", 4, tuple(map(len, parts)))}
    begin = 8 + sum(map(len, parts))
    behind, table = b"", b""
    for tag, (code, kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if len(packed) > 4:
            offset = begin + 2 + 12 * len(entries) + 4 + len(behind)
            behind += packed
            packed = struct.pack("<I", offset)
        table += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = struct.pack("<2sHI", b"II", 42, begin)
    return head + b"".join(parts) + struct.pack("<H", len(entries)) + table + bytes(4) + behind


def on_white(levels: np.ndarray, photometric: int, extra: int | None) -> np.ndarray:
    """Return the RGB that 8-bit levels, [H, W, C], show on white."""
    if photometric == 0:
        levels = 255 - levels
    if levels.shape[2] < 4:
        return levels.repeat(3, axis=2) if levels.shape[2] == 1 else levels
    colours, alpha = levels[..., :3], levels[..., 3:]
    shown = colours if extra == 1 else colours * alpha / 255
    return np.rint(shown + 255 - alpha)


@pytest.mark.parametrize(
    ("channels", "photometric", "planes", "extra", "tolerance"),
    [
        (1, 1, 1, None, 0),
        (1, 0, 1, None, 0),
        (3, 2, 1, None, 0),
        (3, 2, 2, None, 0),
        (4, 2, 1, 2, 0),
        (4, 2, 2, 2, 0),
        (4, 2, 1, 1, 1),
        (4, 2, 2, 1, 1),
    ],
)
def test_16_bit_tiff_is_read_right_in_every_layout(
    channels: int, photometric: int, planes: int, extra: int | None, tolerance: int
) -> None:
    levels = np.random.default_rng(3).integers(0, 256, (40, 50, channels))
    if extra == 1:
        levels[..., :3] = levels[..., :3] * levels[..., 3:] // 255
    file = tiff(levels * 257, photometric, planes, extra)
    pixels = decode_original(file, read_header(file))
    expected = on_white(levels, photometric, extra)
    assert np.abs(pixels - expected).max() <= tolerance
    assert np.array_equal(pixels, decode_original(file, read_header(file)))


@pytest.mark.parametrize(("channels", "planes"), [(2, 1), (2, 2), (5, 1)])
def test_16_bit_tiff_of_a_layout_that_nothing_reads_is_named(channels: int, planes: int) -> None:
    file = tiff(np.zeros((8, 8, channels), np.uint16), 1, planes, None)
    with pytest.raises(RejectedError, match=r"TIFF of a layout .*convert it to PNG"):
        read_header(file)


def test_junk_between_markers_is_passed_over_and_half_a_jpeg_is_not_whole() -> None:
    rows = np.random.default_rng(1).integers(0, 255, (40, 50, 3), np.uint8)
    whole = cv2.imencode(".jpg", rows)[1].tobytes()
    with_junk = whole[:20] + b"junk \x00\x01" + whole[20:]
    pixels = decode_original(with_junk, read_header(with_junk))
    np.testing.assert_array_equal(pixels, decode_original(whole, read_header(whole)))
    half = whole[: len(whole) // 2]
    for cut in (half, half + whole):
        with pytest.raises(RejectedError, match="has no end"):
            decode_original(cut, read_header(cut))


def test_an_end_inside_a_segment_or_before_the_scan_is_not_the_image_s() -> None:
    rows = np.random.default_rng(2).integers(0, 255, (40, 50, 3), np.uint8)
    whole = cv2.imencode(".jpg", rows)[1].tobytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 8) + b"\xff\xd8\xff\xda\0\x02\xff\xd9"
    end_first = whole[:2] + b"\xff\xd9" + whole[2:]  # before any scan
    without_length = whole[:2] + b"\xff\x01" + whole[2:]  # TEM
    for start in (whole[:2] + thumbnail + whole[2:], end_first, without_length):
        cut = start[: len(start) // 2]
        assert _jpeg_is_whole(start)
        assert not _jpeg_is_whole(cut)
    assert not _jpeg_is_whole(whole[: len(whole) // 2] + whole)
    assert not _jpeg_is_whole(whole[:2] + b"\xff\xd9")
    without_scan = whole[: whole.index(b"\xff\xda")] + b"\xff\xd9"
    assert not _jpeg_is_whole(without_scan)


def test_restarts_and_segments_between_scans_are_not_the_image_s_end() -> None:
    rows = np.random.default_rng(3).integers(0, 255, (40, 50, 3), np.uint8)
    restarted = cv2.imencode(".jpg", rows, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    assert b"\xff\xd0" in restarted
    progressive = cv2.imencode(".jpg", rows, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    second = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xd8"
    commented = progressive[:second] + comment + progressive[second:]
    for whole in (restarted, commented):
        assert _jpeg_is_whole(whole)
        assert _jpeg_is_whole(whole[:-2] + b"\xff\xff\xff\xd9")  # padded, as the standard allows
        assert not _jpeg_is_whole(whole[:-2])
        assert not _jpeg_is_whole(whole[:-1])


def test_cmyk_with_an_unusable_profile_is_read_as_without_one() -> None:
    image = Image.fromarray(np.full((20, 20, 4), 90, np.uint8), "CMYK")
    files = []
    for profile in (None, b"no profile", ImageCms.ImageCmsProfile(SRGB).tobytes()):
        sink = io.BytesIO()
        image.save(sink, "JPEG", **({"icc_profile": profile} if profile else {}))
        files.append(decode(sink.getvalue(), 10_000).pixels)
    np.testing.assert_array_equal(files[0], files[1])
    np.testing.assert_array_equal(files[0], files[2])


SRGB = ImageCms.createProfile("sRGB")


@pytest.mark.parametrize("part", [2, 4, 8])
def test_a_jpeg_is_decoded_at_a_part_of_its_sides_and_other_files_whole(part: int) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8), (203, 150))
    reduced = decode_sample(encode_sample(smooth, "jpg", 95), part)
    height, width = -(-150 // part), -(-203 // part)
    assert reduced.shape == (height, width, 3)
    rows, columns = 150 // part, 203 // part
    blocks = smooth[: rows * part, : columns * part].reshape(rows, part, columns, part, 3)
    assert np.abs(reduced[:rows, :columns] - blocks.mean(axis=(1, 3))).mean() < 2
    for suffix in ("png", "webp"):
        assert decode_sample(encode_sample(smooth, suffix, 95), part).shape == smooth.shape
