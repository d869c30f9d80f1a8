"""The sizes of the frames in an AVIF file, by the AV1 headers that its decoder obeys.

The file's own boxes state a size too, which Pillow shows. A small one there may hide a large frame.
Boxes are those of ISO/IEC 14496-12 and 23008-12, headers those of the AV1 specification, section 5.
"""

from collections.abc import Iterator
from dataclasses import dataclass

_BRANDS = (b"avif", b"avis")
_FOLDERS = {
    **dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl"), 0),
    **{b"meta": 4, b"iinf": 6},
}
"""Bytes before the boxes within a box; an ``iinf`` has two more if its version is not 0."""
_CODED = b"av01"
"""The type of an item of AV1 units, the only one that is decoded."""
_SEQUENCE_HEADER = 1
_LONGEST_HEADER = 2**9
"""Bytes of a sequence header that are read; with every optional field the size ends at 385."""
_FILE, _ITEM_DATA = 0, 1
"""Where an item lies: at an offset of the file, or of a box ``idat``."""
MAX_PARTS = 2**15
"""Maximum number of boxes, items, extents and units looked at; encoders write some dozens."""

_Range = tuple[int, int]
"""Start and end."""


def frame_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return width and height of each sequence header of an AVIF file; [] for any other file.

    Raises:
        ValueError: if it has none or too many parts.
        IndexError: if it ends within a part.
    """
    if not _is_avif(data):
        return []
    file = _File(data)
    found = [size for extents in file.images() for size in file.headers(extents)]
    if not found:
        raise ValueError("an AVIF file without the header of a frame")
    return found


def _is_avif(data: bytes) -> bool:
    """Return whether a file has a brand of AVIF in its first box.

    A box without a usual size is taken to be the whole file.
    """
    size = int.from_bytes(data[:4], "big")
    brands = data[8 : size if size > 1 else len(data)]
    return data[4:8] == b"ftyp" and any(brand in brands for brand in _BRANDS)


class _File:
    """The boxes of a file that say where its frames lie, and the units of these."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: dict[bytes, list[_Range]] = {}
        self.parts, self.copied = 0, 0
        self.seen: set[_Range] = set()
        self._walk()

    def _count(self, parts: int = 1) -> None:
        self.parts += parts
        if self.parts > MAX_PARTS:
            raise ValueError(f"an AVIF file with more than {MAX_PARTS} parts")

    def _walk(self) -> None:
        left = [(0, len(self.data))]
        while left:
            start, end = left.pop()
            if start + 8 > end:
                continue
            self._count()
            size, kind, begin = self._number(start, 4), self.data[start + 4 : start + 8], start + 8
            if size == 1:
                size, begin = self._number(start + 8, 8), start + 16
            stop = min(start + size, end) if size else end
            if stop < begin:
                raise ValueError("an AVIF file with a box that ends before it begins")
            self.ranges.setdefault(kind, []).append((begin, stop))
            left.append((stop, end))
            if kind in _FOLDERS:
                wide = kind == b"iinf" and self._number(begin, 1) > 0
                left.append((begin + _FOLDERS[kind] + 2 * wide, stop))

    def images(self) -> Iterator[list[_Range]]:
        """Yield the extents of what begins with the header of a frame: items, then chunks."""
        coded = self._coded()
        for start, _ in self.ranges.get(b"iloc", []):
            yield from self._items(start, coded)
        for kind, width in ((b"stco", 4), (b"co64", 8)):
            for start, _ in self.ranges.get(kind, []):
                for number in range(self._number(start + 4, 4)):
                    self._count()
                    yield [(self._number(start + 8 + number * width, width), len(self.data))]

    def _coded(self) -> set[int]:
        """Return the numbers of the items that are AV1 units, by their boxes ``infe``."""
        found = set()
        for start, _ in self.ranges.get(b"infe", []):
            width = 4 if self._number(start, 1) == 3 else 2
            kind = start + 4 + width + 2  # Behind the number and that of its protection.
            if self.data[kind : kind + 4] == _CODED:
                found.add(self._number(start + 4, width))
        return found

    def _items(self, start: int, coded: set[int]) -> Iterator[list[_Range]]:
        """Yield the extents of each item of the box ``iloc`` that is of AV1 units."""
        version = self._number(start, 1)
        sizes = [self._number(start + at, 1) for at in (4, 5)]
        offset_size, length_size = sizes[0] >> 4, sizes[0] & 15
        base_size, index_size = sizes[1] >> 4, sizes[1] & 15 if version else 0
        width = 4 if version == 2 else 2
        count, at = self._number(start + 6, width), start + 6 + width
        for _ in range(count):
            self._count()
            number, at = self._number(at, width), at + width
            method = self._number(at, 2) & 15 if version else _FILE
            at += 4 if version else 2  # The method, and the number of the file with the data.
            base, at = self._number(at, base_size), at + base_size
            extents, at = self._number(at, 2), at + 2
            found = []
            for _ in range(extents):
                self._count()
                at += index_size
                offset, at = self._number(at, offset_size), at + offset_size
                length, at = self._number(at, length_size), at + length_size
                found.append((base + offset, length))
            if number in coded:
                yield from self._placed(found, method)

    def _placed(self, extents: list[tuple[int, int]], method: int) -> Iterator[list[_Range]]:
        """Yield start and end of extents, given by offset and length, for each place to count from.

        Without a length an item goes on to the end, which is right for a single extent only.
        """
        if len(extents) > 1 and not all(length for _, length in extents):
            raise ValueError("an AVIF file with an extent without length among others")
        origins = [0] if method != _ITEM_DATA else [at for at, _ in self.ranges.get(b"idat", [])]
        for origin in origins:
            self._count(len(extents) or 1)
            begins = [(origin + offset, length) for offset, length in extents]
            yield [(at, at + length if length else len(self.data)) for at, length in begins]

    def headers(self, extents: list[_Range]) -> Iterator[tuple[int, int]]:
        """Yield the sizes in the sequence headers among units that were not looked at before.

        Reserved bits are passed over, as decoders do.
        """
        data, seen = self.data, self.seen
        if len(extents) != 1:
            data, seen = self._joined(extents), set()
            extents = [(0, len(data))]
        [(start, end)] = extents
        end = min(end, len(data))
        while start < end and (start, end) not in seen:
            self._count()
            seen.add((start, end))
            first = data[start]
            start += 2 if first & 4 else 1  # An extension of the header has a byte.
            size = end - start
            if first & 2:
                size, start = _leb128(data, start)
            if first >> 3 & 15 == _SEQUENCE_HEADER:
                yield _size_in(_Bits(data[start : start + min(size, _LONGEST_HEADER)]))
            start += size

    def _joined(self, extents: list[_Range]) -> bytes:
        """Return the bytes of several extents in one piece; not more of them than the file has."""
        self.copied += sum(end - start for start, end in extents)
        if self.copied > len(self.data):
            raise ValueError("an AVIF file with extents that overlap")
        return b"".join(self.data[start:end] for start, end in extents)

    def _number(self, start: int, size: int) -> int:
        if start + size > len(self.data):
            raise IndexError("an AVIF file that ends within a box")
        return int.from_bytes(self.data[start : start + size], "big")


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
        first, self.position = self.position >> 3, self.position + count
        last = self.position + 7 >> 3
        here = self.data[first:last].ljust(last - first, b"\0")
        return int.from_bytes(here, "big") >> (-self.position & 7) & (1 << count) - 1

    def skip_variable(self) -> None:
        """Pass over a number of variable length (uvlc)."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros)


def _size_in(bits: _Bits) -> tuple[int, int]:
    """Return the largest width and height of frames, from a sequence header (section 5.5.1)."""
    bits.take(4)  # The profile, and whether it is a still image.
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
