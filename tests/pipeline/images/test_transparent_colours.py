"""A colour that a PNG names as transparent (tRNS) is opacity in every reader, at every depth."""

import struct
import zlib

import numpy as np
import pytest

from infill.pipeline.errors import ImageError, RejectedError
from infill.pipeline.images import decode, decode_original, read_header, read_opacity
from infill.pipeline.images.png_chunks import transparent_level

LIMIT = 1_000_000
GREY, COLOURS = 0, 2


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, kind: int, row: bytes, clear: bytes | None, width: int = 4) -> bytes:
    """Return a file of one row; other writers than ours scale or leave out what is transparent."""
    named = b"" if clear is None else chunk(b"tRNS", clear)
    head = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + named + pixels + chunk(b"IEND", b"")


def grey(bits: int, levels: list[int], clear: int | None) -> bytes:
    row = int("".join(f"{level:0{bits}b}" for level in levels).ljust(8, "0"), 2)
    stored = row.to_bytes(max(bits * len(levels) // 8, 1), "big")
    return png(bits, GREY, stored, None if clear is None else struct.pack(">H", clear))


@pytest.mark.parametrize(
    ("bits", "levels", "clear", "shown", "opacity"),
    [
        (1, [1, 0, 1, 0], 1, [255, 0, 255, 0], [0, 255, 0, 255]),
        (1, [1, 0, 1, 0], 0, [255, 0, 255, 0], [255, 0, 255, 0]),
        (2, [0, 1, 2, 3], 2, [0, 85, 170, 255], [255, 255, 0, 255]),
        (4, [0, 5, 10, 15], 5, [0, 85, 170, 255], [255, 0, 255, 255]),
        (8, [0, 7, 8, 255], 7, [0, 7, 8, 255], [255, 0, 255, 255]),
        (8, [0, 7, 8, 255], 0x107, [0, 7, 8, 255], [255, 0, 255, 255]),  # higher bits are ignored
    ],
)
def test_a_level_of_grey_is_transparent_in_its_own_bits(bits, levels, clear, shown, opacity):
    file = grey(bits, levels, clear)
    assert decode(file, LIMIT).pixels.tolist() == [
        [list(pair) for pair in zip(shown, opacity, strict=True)]
    ]
    assert read_opacity(file).tolist() == [opacity]
    over_white = [level if seen else 255 for level, seen in zip(shown, opacity, strict=True)]
    assert decode_original(file, read_header(file))[..., 0].tolist() == [over_white]


def test_a_level_of_16_bits_is_transparent_and_its_neighbours_are_not():
    file = grey(16, [0, 700, 701, 65535], 700)
    assert read_opacity(file).tolist() == [[255, 0, 255, 255]]
    for pixels in (decode(file, LIMIT).pixels, decode_original(file, read_header(file))):
        assert pixels.tolist() == [[[0] * 3, [255] * 3, [3] * 3, [255] * 3]]


def test_a_colour_of_16_bits_is_transparent_and_its_neighbours_are_not():
    row = struct.pack(">6H", 700, 1000, 300, 700, 1000, 301)
    file = png(16, COLOURS, row, struct.pack(">3H", 700, 1000, 300), width=2)
    assert read_opacity(file).tolist() == [[0, 255]]
    for pixels in (decode(file, LIMIT).pixels, decode_original(file, read_header(file))):
        assert pixels.tolist() == [[[255] * 3, [3, 4, 1]]]


def test_opacity_of_16_bits_is_turned_as_the_image_is():
    file = grey(16, [0, 700, 701, 65535], 700)
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # a quarter turn
    at = file.index(b"IDAT") - 4
    turned = file[:at] + chunk(b"eXIf", exif) + file[at:]
    assert read_opacity(turned).tolist() == [[255], [0], [255], [255]]
    assert decode_original(turned, read_header(turned))[..., 0].tolist() == [[0], [255], [3], [255]]


def test_files_without_such_a_level_have_none():
    assert transparent_level(grey(8, [0, 7, 8, 255], None)) is None
    row = bytes([7, 10, 3, 7, 10, 4])
    assert transparent_level(png(8, COLOURS, row, struct.pack(">3H", 7, 10, 3), width=2)) is None
    assert transparent_level(b"tRNS and no PNG" * 4) is None
    assert read_opacity(grey(16, [0, 700, 701, 65535], None)) is None


def test_the_letters_alone_make_nothing_transparent():
    """In a comment, among the pixels or behind them they are no chunk that names a level."""
    plain = grey(8, [0, 7, 8, 255], None)
    at = plain.index(b"IDAT") - 4
    comment = plain[:at] + chunk(b"tEXt", b"Comment\0about tRNS") + plain[at:]
    stored = zlib.compressobj(0)
    row = stored.compress(b"\0\0tRNS\0\xff") + stored.flush()
    start = plain[: plain.index(b"IDAT") - 4].replace(
        plain[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 1, 8, GREY, 0, 0, 0))
    )
    among = start + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    assert b"tRNS" in among
    for file, width in ((comment, 4), (among, 7)):
        assert transparent_level(file) is None
        assert read_opacity(file) is None
        assert decode(file, LIMIT).pixels.shape == (1, width, 1)
        assert decode_original(file, read_header(file))[0, 0].tolist() == [0, 0, 0]
    end = plain.index(b"IEND") - 4
    behind = plain[:end] + chunk(b"tRNS", b"\0\0") + plain[end:]
    assert transparent_level(behind) is None
    deep = grey(16, [0, 700, 701, 65535], None)
    end = deep.index(b"IEND") - 4
    late = deep[:end] + chunk(b"tRNS", b"\0\0") + deep[end:]
    assert decode_original(late, read_header(late))[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("clear", [b"", b"\x07"])
def test_a_level_that_is_cut_short_is_damage(clear):
    file = png(8, GREY, bytes([0, 7, 8, 255]), clear)
    with pytest.raises(ImageError, match="damaged"):
        decode(file, LIMIT)
    with pytest.raises(RejectedError, match="damaged header"):
        read_header(file)
    assert np.array_equal(decode(grey(8, [0, 7, 8, 255], 9), LIMIT).alpha, [[255] * 4])
