"""The sizes of the frames in an AVIF file, by the AV1 headers that its decoder obeys.

The file's own boxes state a size too, which Pillow shows. A small one there may hide a large frame.
Boxes are those of ISO/IEC 14496-12 and 23008-12, headers those of the AV1 specification, section 5.
"""

from collections.abc import Iterator
from dataclasses import dataclass

_BRANDS = (b"avif", b"avis")
_FULL = {b"meta": 4}
"""Bytes before the boxes within a box, other than 0."""
_FOLDERS = (b"meta", b"moov", b"trak", b"mdia", b"minf", b"stbl")
_SEQUENCE_HEADER = 1
_FILE, _ITEM_DATA = 0, 1
"""Where an item lies: at an offset of the file, or of the box ``idat``."""
MAX_PARTS = 2**12
"""Maximum number of boxes, items and headers that are looked at; encoders write some dozens."""


def frame_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return width and height of each sequence header of an AVIF file; [] for any other file.

    Raises:
        ValueError: if it has none or too many parts.
        IndexError: if it ends within a part.
    """
    if data[4:8] != b"ftyp" or not any(brand in data[8:64] for brand in _BRANDS):
        return []
    boxes = _Boxes(data)
    found = [size for start, end in boxes.pictures() for size in _headers(data, start, end)]
    if not found:
        raise ValueError("an AVIF file without the header of a frame")
    return found


class _Boxes:
    """The boxes of a file that say where its frames lie."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: dict[bytes, list[tuple[int, int]]] = {}
        self.count = 0
        self._walk(0, len(data))

    def _walk(self, start: int, end: int) -> None:
        while start + 8 <= end:
            self.count += 1
            if self.count > MAX_PARTS:
                raise ValueError(f"an AVIF file with more than {MAX_PARTS} boxes")
            size, kind, begin = self._number(start, 4), self.data[start + 4 : start + 8], start + 8
            if size == 1:
                size, begin = self._number(start + 8, 8), start + 16
            stop = min(start + size, end) if size else end
            if stop < begin:
                raise ValueError("an AVIF file with a box that ends before it begins")
            self.ranges.setdefault(kind, []).append((begin, stop))
            if kind in _FOLDERS:
                self._walk(begin + _FULL.get(kind, 0), stop)
            start = stop

    def pictures(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of what begins with the header of a frame: items, then chunks."""
        for start, _ in self.ranges.get(b"iloc", ()):
            yield from self._items(start)
        for kind, width in ((b"stco", 4), (b"co64", 8)):
            for start, _ in self.ranges.get(kind, ()):
                for number in range(_bounded(self._number(start + 4, 4))):
                    yield self._number(start + 8 + number * width, width), len(self.data)

    def _items(self, start: int) -> Iterator[tuple[int, int]]:
        """Yield the first extent of each item of the box ``iloc``."""
        version, sizes = self.data[start], self.data[start + 4 : start + 6]
        offset_size, length_size = sizes[0] >> 4, sizes[0] & 15
        base_size, index_size = sizes[1] >> 4, sizes[1] & 15 if version else 0
        identity = 4 if version == 2 else 2
        count, at = self._number(start + 6, identity), start + 6 + identity
        for _ in range(_bounded(count)):
            at += identity
            method = self._number(at, 2) & 15 if version else _FILE
            at += 4 if version else 2  # The method, and the number of the file with the data.
            base, at = self._number(at, base_size), at + base_size
            extents, at = self._number(at, 2), at + 2
            for extent in range(_bounded(extents)):
                at += index_size
                offset, at = self._number(at, offset_size), at + offset_size
                length, at = self._number(at, length_size), at + length_size
                if extent == 0:
                    begin = base + offset + self._origin(method)
                    yield begin, begin + length if length else len(self.data)

    def _origin(self, method: int) -> int:
        [*_, (start, _)] = self.ranges.get(b"idat", [(0, 0)])
        return start if method == _ITEM_DATA else 0

    def _number(self, start: int, size: int) -> int:
        if start + size > len(self.data):
            raise IndexError("an AVIF file that ends within a box")
        return int.from_bytes(self.data[start : start + size], "big")


def _bounded(count: int) -> int:
    if count > MAX_PARTS:
        raise ValueError(f"an AVIF file with more than {MAX_PARTS} items")
    return count


def _headers(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the sizes in the sequence headers among the units of an item; none for other items."""
    for _ in range(MAX_PARTS):
        if start >= min(end, len(data)) or data[start] & 0x81:  # The first bit and the last are 0.
            return
        kind, extended, sized = data[start] >> 3 & 15, data[start] & 4, data[start] & 2
        start += 2 if extended else 1
        size = end - start
        if sized:
            size, start = _leb128(data, start)
        if kind == _SEQUENCE_HEADER:
            yield _size_in(_Bits(data[start : start + min(size, 64)]))
        start += size


def _leb128(data: bytes, start: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the position behind it."""
    value = 0
    for position in range(8):
        byte = data[start + position]
        value |= (byte & 127) << 7 * position
        if not byte & 128:
            return value, start + position + 1
    raise ValueError("an AVIF file with a number of more than 8 bytes")


@dataclass
class _Bits:
    """Reads bits from the highest of each byte; zeros behind the end."""

    data: bytes
    position: int = 0

    def take(self, count: int) -> int:
        """Return the number in the next ``count`` bits."""
        value = 0
        for position in range(self.position, self.position + count):
            byte = self.data[position >> 3] if position >> 3 < len(self.data) else 0
            value = value << 1 | byte >> (7 - (position & 7)) & 1
        self.position += count
        return value

    def skip_variable(self) -> None:
        """Pass over a number of variable length (uvlc)."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros)


def _size_in(bits: _Bits) -> tuple[int, int]:
    """Return the largest width and height of frames, from a sequence header (section 5.5.1)."""
    bits.take(4)  # The profile, and whether it is a still picture.
    if bits.take(1):  # A still picture's shorter header.
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # Timing.
        bits.take(64)
        if bits.take(1):
            bits.skip_variable()
        if bits.take(1):  # The decoder's model.
            delay_bits = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take(1):
            bits.take(4)
