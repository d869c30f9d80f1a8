"""Count the scans of progressive JPEG files: each costs a pass over the whole image.

A file of 100 KB can have thousands of scans and take minutes. Encoders write about ten.
"""

import re
from collections.abc import Iterator

MAX_SCANS = 50
"""Maximum number of scans of a JPEG file."""
_SOI = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_SCAN, _END = 0xDA, 0xD9


def require_few_scans(data: bytes) -> None:
    """Refuse a JPEG file with too many scans; other files pass.

    Raises:
        ValueError: if it has more than :data:`MAX_SCANS`.
    """
    if not data.startswith(_SOI) or data.count(b"\xff\xda") <= MAX_SCANS:
        return
    for number, _ in enumerate(_scans(data)):
        if number >= MAX_SCANS:
            raise ValueError(
                f"a JPEG with more than {MAX_SCANS} scans: save it again, with fewer or as "
                "baseline JPEG"
            )


def _scans(data: bytes) -> Iterator[int]:
    """Yield the position of each scan, as libjpeg finds them: it skips bytes up to a marker."""
    position = len(_SOI)
    while found := _MARKER.search(data, position):
        marker, position = found.group(1)[0], found.end()
        if marker == _END:
            return
        if marker == _SCAN:
            yield found.start()
        if marker not in _WITHOUT_LENGTH:
            position += max(int.from_bytes(data[position : position + 2], "big"), 2)
