"""Files that claim less than their decoder would allocate, or cost more than their size says."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import ImageError, RejectedError
from infill.pipeline.images import (
    decode,
    decode_original,
    grey,
    read_header,
    read_mask,
    upright_size,
)
from infill.pipeline.images.conversion import as_upload
from infill.pipeline.images.jpeg_scans import MAX_SCANS, require_few_scans
from infill.pipeline.images.png_chunks import exif_chunk


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def pixels(width: int, height: int, bytes_each: int = 1) -> bytes:
    return chunk(b"IDAT", zlib.compress((b"\0" + bytes(width * bytes_each)) * height, 9))


SMALL, LARGE, END = header(64, 64), header(3000, 3000), chunk(b"IEND", b"")
TWO_HEADERS = {
    "then a larger one": png(SMALL, LARGE, pixels(3000, 3000), END),
    "then a deep one": png(SMALL, header(64, 64, depth=16), pixels(64, 64, 2), END),
    "text that looks like one": png(chunk(b"tEXt", SMALL[8:21]), LARGE, pixels(3000, 3000), END),
    "then a larger one behind other chunks": png(
        SMALL, chunk(b"gAMA", struct.pack(">I", 45455)), LARGE, pixels(3000, 3000), END
    ),
    "a longer one": png(chunk(b"IHDR", SMALL[8:21] + b"\0"), pixels(64, 64), END),
}


@pytest.mark.parametrize("name", TWO_HEADERS)
def test_png_has_one_header_in_every_decoder(name):
    data = TWO_HEADERS[name]
    code = "too_many_pixels" if "larger" in name or "text" in name else "damaged_image"
    for read in (decode, upright_size):
        with pytest.raises(ImageError) as refused:
            read(data, 10_000)
        assert refused.value.code == code
    with pytest.raises(ImageError):
        read_mask(data, max_pixels=10_000)
    with pytest.raises(RejectedError):
        read_header(data, 10_000)


def test_header_s_name_inside_the_pixels_is_no_second_header():
    stored = zlib.compressobj(0)
    rows = b"".join(b"\0" + (b"IHDR" * 20)[:64] for _ in range(64))
    data = png(SMALL, chunk(b"IDAT", stored.compress(rows) + stored.flush()), END)
    assert data.count(b"IHDR") > 1
    assert decode(data, 10_000).pixels.shape == (64, 64, 1)
    assert read_header(data, 10_000).width_px == 64


def test_millions_of_chunks_are_not_walked():
    data = png(SMALL, chunk(b"tEXt", b"") * 100_000, pixels(64, 64), END)
    with pytest.raises(ImageError, match="damaged"):
        decode(data, 10_000)


def avif(side: int, shown: int, *, mode: str = "RGB", frames: int = 1) -> bytes:
    """Return black frames in a file whose boxes state another side."""
    stream, frame = io.BytesIO(), Image.new(mode, (side, side))
    more = {"save_all": True, "append_images": [frame] * (frames - 1)} if frames > 1 else {}
    frame.save(stream, "AVIF", **more)
    size = b"ispe" + bytes(4) + struct.pack(">II", side, side)
    data = stream.getvalue()
    assert size in data or side == shown or frames > 1
    return data.replace(size, b"ispe" + bytes(4) + struct.pack(">II", shown, shown))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("shown", [64, 400])
def test_avif_of_larger_frames_than_its_boxes_state_is_refused_by_every_decoder(mode, shown):
    data = avif(400, shown, mode=mode)
    for read in (decode, upright_size):
        with pytest.raises(ImageError) as refused:
            read(data, 10_000)
        assert refused.value.code == "too_many_pixels"
    with pytest.raises(ImageError):
        read_mask(data, max_pixels=10_000)
    with pytest.raises(RejectedError, match="400 x 400 pixels"):
        read_header(data, 10_000)


@pytest.mark.parametrize(("mode", "frames"), [("RGB", 1), ("RGBA", 1), ("L", 1), ("RGB", 2)])
def test_avif_that_states_its_size_is_read(mode, frames):
    found = read_header(avif(96, 96, mode=mode, frames=frames), 10_000)
    assert (found.format, found.height_px, found.width_px) == ("AVIF", 96, 96)


def test_avif_cut_anywhere_is_read_or_refused():
    data = avif(96, 96)
    for end in range(0, len(data), 7):
        with suppress(RejectedError):
            read_header(data[:end], 10_000)


def heic(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(sink, "HEIF", quality=60)
    return sink.getvalue()


def test_heic_cut_anywhere_is_read_or_refused_by_every_reader():
    data = heic(48, 32)
    refused = 0
    for end in range(1, len(data), 7):
        try:
            decode_original(data[:end], read_header(data[:end], 10_000))
        except RejectedError:
            refused += 1
        for read in (read_mask, lambda cut: decode(cut, 10_000)):
            with suppress(ImageError):
                read(data[:end])
    assert refused > len(data) // 7 * 0.9
    assert decode_original(data, read_header(data, 10_000)).shape == (32, 48, 3)


def test_heic_of_a_larger_frame_than_it_states_is_refused():
    data = heic(600, 400)
    at = data.index(b"ispe") + 8
    small = data[:at] + struct.pack(">II", 16, 16) + data[at + 8 :]
    with pytest.raises(RejectedError, match="cannot be decoded"):
        decode_original(small, read_header(small, 10_000))


def progressive(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    sink = io.BytesIO()
    Image.new("L", (side, side), 128).save(sink, "jpeg", progressive=True, quality=50)
    data = sink.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_jpeg_of_many_scans_is_refused_by_every_decoder_before_it_works():
    data = progressive(MAX_SCANS)
    for read in (decode, upright_size, read_mask):
        with pytest.raises(ImageError, match=f"more than {MAX_SCANS} scans") as refused:
            read(data, max_pixels=10_000)
        assert refused.value.code == "unsupported_image"
    for read in (read_header, lambda jpeg: as_upload(jpeg, 10_000) and read_header(jpeg)):
        with pytest.raises(RejectedError, match=f"more than {MAX_SCANS} scans"):
            read(data)


def test_scans_of_a_thumbnail_and_markers_in_other_segments_do_not_count():
    data = progressive(1)
    filler = b"\xff\xda" * 200
    with_thumbnail = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(filler)) + filler + data[2:]
    assert decode(with_thumbnail, 10_000).pixels.shape == (64, 64, 1)
    assert decode(progressive(20), 10_000).pixels.shape == (64, 64, 1)


@pytest.mark.parametrize("prefix", [b"\xff\xff", b"junk", b"\xff\xd0"])
def test_scans_behind_what_decoders_skip_count(prefix):
    sink = io.BytesIO()
    Image.new("L", (64, 64), 128).save(sink, "jpeg", progressive=True)
    data = sink.getvalue()
    last = data.rfind(b"\xff\xda")
    hidden = prefix.removesuffix(b"\xff") + data[last:-2]
    with pytest.raises(ImageError, match="scans"):
        decode(data[:-2] + hidden * MAX_SCANS + data[-2:], 10_000)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_scans_right_behind_each_other_count_each(length):
    scan = b"\xff\xda" + bytes([0, length])
    require_few_scans(b"\xff\xd8" + scan * MAX_SCANS)
    with pytest.raises(ValueError, match=f"more than {MAX_SCANS} scans"):
        require_few_scans(b"\xff\xd8" + scan * (MAX_SCANS + 1))


def tiff(tags: dict[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(64)


def test_tiff_of_a_huge_tile_is_refused_by_its_header():
    about = {256: 8, 257: 8, 258: 8, 259: 5, 262: 1, 277: 1}
    with pytest.raises(RejectedError, match="tiles of 40000 x 40000"):
        read_header(tiff({**about, 322: 40_000, 323: 40_000, 324: 150, 325: 64}), 10_000)
    with pytest.raises(RejectedError, match="tiles of 160 x 64"):
        read_header(tiff({**about, 322: 160, 323: 64, 324: 150, 325: 64}), 10_000)
    for width, height in ((16, 16), (100, 100), (10_000, 1)):
        small = tiff({**about, 322: width, 323: height, 324: 150, 325: 64})
        assert read_header(small, 10_000).width_px == 8


@pytest.mark.parametrize(("width", "height"), [(0, 8), (8, 0), (0, 0), (1, 8), (8, 1), (1, 1)])
def test_images_without_width_or_height_are_refused_and_one_pixel_is_an_image(width, height):
    about = {258: 8, 259: 1, 262: 1, 273: 140, 277: 1, 278: 8, 279: 64}
    for file in (
        png(header(width, height), chunk(b"IDAT", b""), END),
        tiff({256: width, 257: height, **about}),
        b"P6 %d %d 255\n" % (width, height) + bytes(300),
    ):
        if width and height:
            found = read_header(file)
            assert (found.width_px, found.height_px) == (width, height)
        else:
            with pytest.raises(RejectedError):
                read_header(file)


def test_exif_of_a_png_is_the_chunk_s_data_and_nothing_else():
    file = png(header(8, 8), chunk(b"IDAT", b""), chunk(b"eXIf", b"MM and more"), END)
    assert exif_chunk(file) == b"MM and more"
    assert exif_chunk(png(header(8, 8), chunk(b"tEXt", b"eXIf\0MM"), END)) is None
    cut = file[: file.index(b" and more")]
    assert exif_chunk(cut) is None


def test_size_of_a_png_with_late_exif_is_read_without_decoding():
    """The pixels are missing, so a decoder would fail."""
    exif = Image.Exif()
    exif[0x0112] = 6
    late = png(header(64, 32), chunk(b"IDAT", b""), chunk(b"eXIf", exif.tobytes()[6:]), END)
    assert upright_size(late, 10_000) == (64, 32)
    assert upright_size(late.replace(b"eXIf", b"eXIg"), 10_000) == (32, 64)


def test_brightness_is_the_same_a_few_rows_at_a_time():
    rgb = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    whole = np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    np.testing.assert_array_equal(grey(rgb), whole)
    np.testing.assert_array_equal(grey(rgb[0]), whole[0])
