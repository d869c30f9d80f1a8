"""The sizes of AV1 frames: where a file has them, and in every form that section 5.5.1 allows."""

import io
from contextlib import suppress
from itertools import product

import pytest
from PIL import Image

from infill.pipeline.errors import RejectedError
from infill.pipeline.images import avif_frames, read_header
from infill.pipeline.images.avif_frames import _Bits, _size_in, frame_sizes


def bits(number: int, count: int) -> str:
    return f"{number:0{count}b}"


def variable(number: int) -> str:
    """Return a number as uvlc writes it: as many zeros as bits follow its leading one."""
    written = f"{number + 1:b}"
    return "0" * (len(written) - 1) + written


def sequence_header(
    width: int,
    height: int,
    *,
    timing: bool,
    ticks: int | None,
    model_bits: int,
    display_delay: bool,
    levels: tuple[int, ...],
    sparse: bool = True,
) -> bytes:
    """Return a whole sequence header; what is not asked for is ones, for which no size is taken."""
    written = bits(0, 3) + "0" + "0"  # The profile, no still picture, no shorter header.
    written += "1" if timing else "0"
    if timing:
        written += "1" * 64 + ("0" if ticks is None else "1" + variable(ticks))
        written += "1" + bits(model_bits - 1, 5) + "1" * 42 if model_bits else "0"
    written += "1" if display_delay else "0"
    written += bits(len(levels) - 1, 5)
    for number, level in enumerate(levels):
        here = not sparse or number % 2 == 0  # Every second point has the optional fields.
        written += "1" * 12 + bits(level, 5) + ("1" if level > 7 else "")
        if timing and model_bits:
            written += "1" + "1" * (2 * model_bits + 1) if here else "0"
        if display_delay:
            written += "1" + "1" * 4 if here else "0"
    counts = [(side - 1).bit_length() for side in (width, height)]
    written += "".join(bits(count - 1, 4) for count in counts)
    written += bits(width - 1, counts[0]) + bits(height - 1, counts[1])
    written += "1" * 24
    return int(written + "0" * (-len(written) % 8), 2).to_bytes(-(-len(written) // 8), "big")


@pytest.mark.parametrize("levels", [(0,), (7,), (8, 3), (9, 12, 5)])
@pytest.mark.parametrize("model_bits", [0, 1, 10, 32])
def test_the_size_is_found_behind_every_optional_field(levels, model_bits):
    for display_delay, ticks in product((False, True), (None, 0, 1, 6, 200)):
        data = sequence_header(
            1201,
            70,
            timing=True,
            ticks=ticks,
            model_bits=model_bits,
            display_delay=display_delay,
            levels=levels,
        )
        assert _size_in(_Bits(data)) == (1201, 70)


@pytest.mark.parametrize("levels", [(0,), (8, 8, 8)])
@pytest.mark.parametrize("display_delay", [False, True])
def test_the_size_is_found_without_timing(levels, display_delay):
    data = sequence_header(
        64,
        65536,
        timing=False,
        ticks=None,
        model_bits=0,
        display_delay=display_delay,
        levels=levels,
    )
    assert _size_in(_Bits(data)) == (64, 65536)


def still_header(width: int, height: int) -> bytes:
    """Return the shorter sequence header of a still picture, up to its sides."""
    written = bits(0, 3) + "1" + "1" + "1" * 5 + bits(15, 4) + bits(15, 4)
    written += bits(width - 1, 16) + bits(height - 1, 16)
    written += "0" * (-len(written) % 8)
    return int(written, 2).to_bytes(len(written) // 8, "big")


def test_the_size_is_found_in_the_shorter_header_of_a_still_picture():
    assert _size_in(_Bits(still_header(800, 300))) == (800, 300)


def test_numbers_of_variable_length_end_where_their_bits_end():
    for number in (0, 1, 2, 6, 7, 1000, 2**32 - 2):
        written = variable(number) + "101"
        padded = written + "0" * (-len(written) % 8)
        reader = _Bits(int(padded, 2).to_bytes(len(padded) // 8, "big"))
        reader.skip_variable()
        assert reader.take(3) == 0b101


def test_bits_behind_the_end_are_zeros_and_a_number_without_end_is_left():
    reader = _Bits(b"\xff")
    assert reader.take(12) == 0b111111110000
    endless = _Bits(b"")
    endless.skip_variable()
    assert endless.position == 64


def big(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, "big")


def box(kind: bytes, content: bytes, *, wide: bool = False) -> bytes:
    """Return a box, with its size in 32 or in 64 bits."""
    if wide:
        return big(1) + kind + big(16 + len(content), 8) + content
    return big(8 + len(content)) + kind + content


def unit(kind: int, content: bytes, *, extension: bytes = b"", length: int | None = 1) -> bytes:
    """Return a unit of AV1 whose size has that many bytes, or none."""
    first = kind << 3 | 4 * bool(extension) | 2 * (length is not None)
    size = [len(content) >> 7 * n & 127 | 128 * (n + 1 < (length or 0)) for n in range(length or 0)]
    return bytes([first]) + extension + bytes(size) + content


HEADER, PADDING, DELIMITER = 1, 15, unit(2, b"")


def frame(width: int, height: int) -> bytes:
    return unit(HEADER, still_header(width, height))


BRANDS = box(b"ftyp", b"avif" + bytes(4) + b"avifmif1miaf")
MEDIA = len(BRANDS) + 8
"""Where the content of the box begins that ``file`` writes first."""


def file(media: bytes, *boxes: bytes) -> bytes:
    return BRANDS + box(b"mdat", media) + b"".join(boxes)


Item = tuple[int, int, list[tuple[int, int]]]
"""Construction method, base offset, and offset and length of each extent."""


def iloc(
    items: list[Item],
    version: int = 0,
    fields: tuple[int, ...] = (4, 4, 0, 0),
    unused: bytes = b"\0",
) -> bytes:
    """Return the locations of the items 257, 258 ..., with bytes in each field of an offset,
    length, base and index, and with what is in fields that are not used."""
    offset_size, length_size, base_size, index_size = fields
    content = bytes([version, 0, 0, 0, offset_size << 4 | length_size, base_size << 4 | index_size])
    width = 4 if version == 2 else 2
    content += big(len(items), width)
    for number, (method, base, extents) in enumerate(items, 257):
        content += big(number, width)
        content += unused + big(unused[0] & 0xF0 | method, 1) if version else b""
        content += unused * 2 + big(base, base_size) + big(len(extents), 2)
        for offset, length in extents:
            content += unused * (index_size if version else 0)
            content += big(offset, offset_size) + big(length, length_size)
    return box(b"iloc", content)


def meta(*boxes: bytes, kinds: tuple[bytes, ...] = (b"av01",), version: int = 0) -> bytes:
    """Return the box of the items, of these kinds from number 257 on, for Pillow to read, too."""
    width = 4 if version else 2
    infos = [
        box(b"infe", big(2 + version, 1) + bytes(3) + big(number, width) + bytes(2) + kind + b"\0")
        for number, kind in enumerate(kinds, 257)
    ]
    infos_box = box(b"iinf", big(version, 1) + b"\1\1\1" + big(len(infos), width) + b"".join(infos))
    sides = box(b"ispe", bytes(4) + big(64) + big(64))
    properties = sides + box(b"pixi", bytes(4) + b"\3\x08\x08\x08")
    properties = box(b"ipco", properties + box(b"av1C", b"\x81\x01\x0c\0"))
    properties += box(
        b"ipma",
        bytes(4)
        + big(len(kinds))
        + b"".join(big(n, 2) + b"\3\1\2\x83" for n in range(257, 257 + len(kinds))),
    )
    about = box(b"hdlr", bytes(8) + b"pict" + bytes(13)) + box(b"pitm", bytes(4) + big(257, 2))
    return box(b"meta", bytes(4) + about + infos_box + box(b"iprp", properties) + b"".join(boxes))


def still(media: bytes) -> bytes:
    """Return a file of one item of one extent."""
    return file(media, meta(iloc([(0, 0, [(MEDIA, len(media))])])))


def meta_of(items: list[Item], *more: bytes) -> bytes:
    """Return the box of items that are all frames."""
    return meta(*more, iloc(items, 1, (4, 4, 4, 0)), kinds=(b"av01",) * len(items))


@pytest.mark.parametrize("version", [0, 1, 2])
def test_items_are_found_by_fields_of_every_width(version):
    """The first item has three extents with others' bytes between, the second lies behind it."""
    first, second = frame(300, 20) + DELIMITER + frame(20, 500), frame(7, 9)
    media = b"".join(first[at : at + 8] + second * 2 for at in (0, 8, 16)) + second
    step = 8 + 2 * len(second)
    for fields in product((4, 8), (2, 8), (0, 4, 8), (0, 4, 8)):
        base = MEDIA if fields[2] else 0
        start = MEDIA - base
        parts = [(start, 8), (start + step, 8), (start + 2 * step, len(first) - 16)]
        items = [(0, base, parts), (0, base, [(start + len(media) - len(second), len(second))])]
        for infos in (0, 1):
            locations = iloc(items, version, fields, b"\x11")
            data = file(media, meta(locations, kinds=(b"av01", b"av01"), version=infos))
            assert frame_sizes(data) == [(300, 20), (20, 500), (7, 9)]


@pytest.mark.parametrize("version", [0, 1])
def test_only_items_of_frames_are_looked_at(version):
    media = frame(1, 2) + frame(3, 4) + frame(5, 6)
    extents = [(MEDIA + at * len(frame(1, 2)), len(frame(1, 2))) for at in range(3)]
    items = [(0, 0, [extent]) for extent in extents]
    data = file(media, meta(iloc(items), kinds=(b"Exif", b"av01", b"mime"), version=version))
    assert frame_sizes(data) == [(3, 4)]
    with pytest.raises(ValueError, match="without the header"):
        frame_sizes(data.replace(b"av01", b"hvc1"))


def test_items_are_counted_from_the_file_or_from_every_box_of_item_data():
    one, other, media = frame(10, 20), frame(30, 40), frame(50, 60)
    inside, behind = box(b"idat", b"\0" + one), box(b"idat", b"\0" + other)
    here = (1, 1, [(0, len(one))])
    for method in (0, 2):
        there = (method, 7, [(MEDIA - 7, len(media))])
        data = file(media, meta_of([here, there], inside), behind)
        assert frame_sizes(data) == [(10, 20), (30, 40), (50, 60)]
        assert frame_sizes(file(media, meta_of([here, there]))) == [(50, 60)]


def test_an_extent_without_length_goes_on_to_the_end_and_has_none_beside_it():
    media = frame(10, 20) + DELIMITER + frame(30, 40)
    locations = iloc([(0, 0, [(MEDIA, 0)])], fields=(4, 0, 0, 0))
    assert frame_sizes(file(media, meta(locations))) == [(10, 20), (30, 40)]
    for extents in ([(MEDIA, 0), (MEDIA, 5)], [(MEDIA, 5), (MEDIA, 0)]):
        with pytest.raises(ValueError, match="without length"):
            frame_sizes(file(media, meta_of([(0, 0, extents)])))


def test_extents_in_several_parts_are_together_not_longer_than_the_file():
    media = frame(10, 20)
    first = [(MEDIA, 4), (MEDIA + 4, len(media) - 4)]
    size = len(file(media, meta_of([(0, 0, first), (0, 0, first)])))
    rest = size - len(media)
    data = file(media, meta_of([(0, 0, first), (0, 0, [(0, 50), (50, rest - 50)])]))
    assert len(data) == size
    assert frame_sizes(data) == [(10, 20)]
    with pytest.raises(ValueError, match="overlap"):
        frame_sizes(file(media, meta_of([(0, 0, first), (0, 0, [(0, 50), (50, rest - 49)])])))


STOP = unit(PADDING, b"", length=None)
"""A unit that goes on to the end of what it lies in."""
CHUNKS = [frame(side, 9) + STOP for side in (1, 2, 3, 4)]
STARTS = [MEDIA + at * len(CHUNKS[0]) for at in range(4)]


def offsets(kind: bytes, starts: list[int]) -> bytes:
    width = {b"stco": 4, b"co64": 8}[kind]
    return box(kind, bytes(4) + big(len(starts)) + b"".join(big(at, width) for at in starts))


def track(*tables: bytes) -> bytes:
    """Return a track with tables of chunks, beside and within boxes of every kind."""
    content = b"".join(tables)
    for kind in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        content = box(b"free", b"") + box(kind, content) + box(b"free", b"")
    return content


def test_chunks_are_found_by_offsets_of_both_widths_behind_the_items():
    tracks = track(offsets(b"co64", STARTS[:2]), offsets(b"stco", STARTS[2:]))
    item = meta(iloc([(0, 0, [(MEDIA + 4 * len(CHUNKS[0]), len(frame(5, 9)))])]))
    data = file(b"".join(CHUNKS) + frame(5, 9), tracks, item)
    assert frame_sizes(data) == [(5, 9), (3, 9), (4, 9), (1, 9), (2, 9)]
    for kind in (b"stco", b"co64"):
        alone = file(b"".join(CHUNKS), track(offsets(kind, [STARTS[3], STARTS[0]])))
        assert frame_sizes(alone) == [(4, 9), (1, 9)]


def test_boxes_may_be_wide_open_or_nested_without_end():
    media, at = frame(10, 20), MEDIA + 8
    item = iloc([(0, 0, [(at, len(media))])])
    wide = BRANDS + box(b"mdat", media, wide=True)
    about = meta(item)[8:]
    for begin in (8 + len(about), 1000):  # Right, and beyond the end of the file.
        assert frame_sizes(wide + big(begin) + b"meta" + about) == [(10, 20)]
    assert frame_sizes(wide + box(b"meta", about, wide=True)) == [(10, 20)]
    assert frame_sizes(wide + box(b"meta", about, wide=True) + bytes(7)) == [(10, 20)]
    assert frame_sizes(wide + big(0) + b"meta" + about) == [(10, 20)]
    nested = offsets(b"stco", [at])
    for _ in range(3000):
        nested = box(b"moov", nested)
    assert frame_sizes(wide + nested) == [(10, 20)]


@pytest.mark.parametrize("size", [2, 7])
def test_a_box_that_ends_before_it_begins_is_refused(size):
    whole = still(frame(10, 20))
    for small in (big(size) + b"free", big(1) + b"free" + big(15, 8)):
        with pytest.raises(ValueError, match="ends before it begins"):
            frame_sizes(whole + small)
    assert frame_sizes(whole + big(8) + b"free") == [(10, 20)]
    assert frame_sizes(whole + big(1) + b"free" + big(16, 8)) == [(10, 20)]


def test_a_file_that_ends_within_what_says_where_its_frames_lie_is_refused():
    chunk = file(frame(10, 20), track(offsets(b"stco", [MEDIA])))
    for data, kind in ((still(frame(10, 20)), b"iloc"), (chunk, b"stco")):
        begin = data.index(kind) + 4
        end = begin + int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
        assert frame_sizes(data[:end]) == [(10, 20)]
        for cut in (begin, begin + 4, end - 1):
            with pytest.raises(IndexError):
                frame_sizes(data[:cut])


@pytest.mark.parametrize(
    ("media", "sizes"),
    [
        (DELIMITER + frame(10, 20), [(10, 20)]),
        (frame(10, 20) + frame(30, 40), [(10, 20), (30, 40)]),
        (unit(HEADER, still_header(10, 20), extension=b"\xff"), [(10, 20)]),
        (unit(HEADER, still_header(10, 20), length=None), [(10, 20)]),
        (unit(HEADER, still_header(10, 20), extension=b"\xff", length=None), [(10, 20)]),
        (bytes([HEADER << 3 | 0x81]) + still_header(10, 20), [(10, 20)]),
        (frame(10, 20) + unit(PADDING, frame(30, 40), length=None), [(10, 20)]),
        (unit(PADDING, frame(30, 40)) + frame(10, 20), [(10, 20)]),
        *((unit(PADDING, bytes(100), length=n) + frame(10, 20), [(10, 20)]) for n in range(1, 9)),
        (unit(PADDING, frame(3, 4) * 2000, length=3) + frame(10, 20), [(10, 20)]),
        (
            unit(HEADER, still_header(10, 20) + bytes(600), length=2) + frame(3, 4),
            [(10, 20), (3, 4)],
        ),
        # Units with reserved bits set, and units of every other kind.
        (b"\x92\x00\x13\x00" + bytes([frame(1, 1)[0] | 0x81]) + frame(10, 20)[1:], [(10, 20)]),
        (b"".join(unit(n, frame(3, 4)) for n in range(16) if n != 1) + frame(10, 20), [(10, 20)]),
        # Six bytes of a header of seven: the two lowest bits of 299 are missing.
        (unit(HEADER, still_header(300, 300)[:-1], length=None), [(300, 297)]),
        (unit(HEADER, still_header(300, 300)[:-1]) + b"\xff", [(300, 297)]),
    ],
)
def test_units_are_walked_as_decoders_do(media, sizes):
    data = still(media)
    assert frame_sizes(data) == sizes
    behind = file(media + b"\xff" + frame(50, 60), meta(iloc([(0, 0, [(MEDIA, len(media))])])))
    assert frame_sizes(behind) == sizes


def test_the_size_of_a_unit_has_eight_bytes_or_fewer_and_ends_before_the_file():
    with pytest.raises(ValueError, match="more than 8 bytes"):
        frame_sizes(still(unit(PADDING, b"", length=9) + frame(10, 20)))
    begin = len(file(b"", meta(iloc([(0, 0, [(0, 9)])]))))
    for cut in (1, 2):
        behind = unit(PADDING, b"", length=3)[:cut]
        with pytest.raises(IndexError):
            frame_sizes(file(b"", meta(iloc([(0, 0, [(begin, 9)])]))) + behind)


def test_the_size_is_found_in_the_longest_header():
    longest = sequence_header(
        65536,
        65535,
        timing=True,
        ticks=2**32 - 2,
        model_bits=32,
        display_delay=True,
        levels=(31,) * 32,
        sparse=False,
    )
    assert len(longest) == 385 + 3  # What follows the size has 24 bits.
    for length in (2, None):
        assert frame_sizes(still(unit(HEADER, longest, length=length))) == [(65536, 65535)]


def brands(*names: bytes, size: int | None = None, wide: bool = False) -> bytes:
    made = box(b"ftyp", names[0] + bytes(4) + b"".join(names[1:]), wide=wide)
    return made if size is None else big(size) + made[4:]


def test_files_of_every_form_of_the_brands_are_looked_at_and_no_others():
    rest = file(b"")[len(BRANDS) :]
    others = (b"mif1",) * 20
    for first in (
        brands(b"avif"),
        brands(b"avis"),
        brands(*others, b"avis"),
        brands(*others, b"avif", wide=True),
        brands(*others, b"avif", size=0),
    ):
        with pytest.raises(ValueError, match="without the header"):
            frame_sizes(first + rest)
    avif = file(b"avif", meta(b"avif"))[len(BRANDS) :]
    for other in (
        b"",
        b"avif",
        brands(b"heic") + avif,
        brands(b"avif", size=2) + avif,
        box(b"free", b"avif") + avif,
    ):
        assert frame_sizes(other) == []


def parts_of(data: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the smallest limit of parts that a file passes."""
    for limit in range(100):
        monkeypatch.setattr(avif_frames, "MAX_PARTS", limit)
        with suppress(ValueError):
            frame_sizes(data)
            return limit
    raise AssertionError("a file of more than 100 parts")


def test_every_box_item_extent_chunk_and_unit_counts_once(monkeypatch):
    media = frame(10, 20) + frame(30, 40)
    half = len(media) // 2
    whole, parts = [(MEDIA, len(media))], [(MEDIA, half), (MEDIA + half, half)]
    boxes, item, units = 9, 3, 2  # An item that is looked at counts again, with its extent.
    for more in range(3):
        free = box(b"free", b"") * more
        assert parts_of(still(media) + free, monkeypatch) == boxes + more + item + units
        empty = file(media, meta_of([(0, 0, whole)] + [(0, 0, [])] * more))
        assert parts_of(empty, monkeypatch) == boxes + more + item + units + 2 * more
        again = file(media, meta_of([(0, 0, whole)] * (1 + more)))  # Units are looked at once.
        assert parts_of(again, monkeypatch) == boxes + more + item * (1 + more) + units
        longer = still(media + DELIMITER * more)
        assert parts_of(longer, monkeypatch) == boxes + item + units + more
        data = file(b"".join(CHUNKS), track(offsets(b"stco", STARTS[: 1 + more])))
        assert parts_of(data, monkeypatch) == 2 + 5 * 3 + 1 + 3 * (1 + more)
    joined = file(media, meta_of([(0, 0, parts)]))
    assert parts_of(joined, monkeypatch) == boxes + item + 2 + units
    inside = file(media, track(offsets(b"stco", [MEDIA, MEDIA + half])))
    assert parts_of(inside, monkeypatch) == 2 + 5 * 3 + 1 + 2 + 3  # The boxes behind are one.


def test_the_bound_is_far_from_what_encoders_write():
    within = still(frame(10, 20) + DELIMITER * 30_000)
    assert frame_sizes(within) == [(10, 20)]
    with pytest.raises(ValueError, match=f"more than {avif_frames.MAX_PARTS} parts"):
        frame_sizes(still(frame(10, 20) + DELIMITER * avif_frames.MAX_PARTS))


def encoded(side: int, colour: str) -> bytes:
    """Return the units of a frame by Pillow's encoder."""
    sink = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(sink, "AVIF")
    return sink.getvalue().partition(b"mdat")[2]


LARGE, SMALL = encoded(400, "blue"), encoded(64, "red")
ITEM = (0, 0, [(MEDIA, len(SMALL))])
PIECES = [(MEDIA, 7), (MEDIA + 10, len(LARGE) - 7)]
HIDDEN = {
    "behind a small one": SMALL[: 4 + SMALL[3]] + LARGE,
    "behind thousands of units": SMALL[: 4 + SMALL[3]] + DELIMITER * 5000 + LARGE,
    "behind a forbidden bit": b"\x92\0" + LARGE,
    "behind a reserved bit": b"\x13\0" + LARGE,
}


def hidden(name: str) -> bytes:
    """Return a file whose decoded frame is the large one, beside an item with the small one."""
    if name in HIDDEN:
        media = SMALL + HIDDEN[name]
        large = (0, 0, [(MEDIA + len(SMALL), len(HIDDEN[name]))])
        return file(media, meta_of([large, ITEM]))
    if name == "in a second extent":
        large = (0, 0, [(MEDIA + len(SMALL), 2), (MEDIA + len(SMALL) + 2, len(LARGE) - 2)])
        return file(SMALL + LARGE, meta_of([large, ITEM]))
    if name == "cut by another header":
        media = LARGE[:6] + SMALL[6:20] + LARGE[6:] + SMALL
        begin = MEDIA + len(media) - len(SMALL)
        large = (0, 0, [(MEDIA, 6), (MEDIA + 20, len(LARGE) - 6)])
        return file(media, meta_of([large, (0, 0, [(begin, len(SMALL))])]))
    if name == "in one of two boxes of item data":
        large = (1, 0, [(0, len(LARGE))])
        return file(SMALL, meta_of([large, ITEM], box(b"idat", LARGE)), box(b"idat", SMALL))
    assert name == "behind sixteen other brands"
    first = brands(b"mif1", *[b"miaf"] * 16, b"avif")
    large = (0, 0, [(len(first) + 8, len(LARGE))])
    return first + box(b"mdat", LARGE) + meta_of([large])


@pytest.mark.parametrize(
    "name",
    [
        *HIDDEN,
        "in a second extent",
        "cut by another header",
        "in one of two boxes of item data",
        "behind sixteen other brands",
    ],
)
def test_a_large_frame_that_pillow_decodes_is_found_where_it_is_hidden(name):
    data = hidden(name)
    with Image.open(io.BytesIO(data), formats=["AVIF"]) as image:
        assert image.size == (64, 64)
        red, _, blue = image.getpixel((30, 30))
        assert (red < 20, blue > 230) == (True, True)
    with pytest.raises(RejectedError, match="400 x 400 pixels are more than"):
        read_header(data, 10_000)
