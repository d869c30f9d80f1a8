"""What files are that no reader takes, by their first bytes, and what errors of readers say."""

import pytest
from PIL import Image

from infill.pipeline.images.headers import first_line_of
from infill.pipeline.images.kinds import unread_kind

HEIC = (
    "an image of a kind that is not read here (install pillow-heif (`pip install 'infill[heic]'`))"
)
AVIF = (
    "an image of a kind that is not read here "
    "(install a Pillow with AVIF (`pip install 'pillow>=11.3'`))"
)
JXL = "a JPEG XL image, which is not read: convert it to PNG or JPEG"
TIFF = "a TIFF of a layout that is not read: convert it to PNG or JPEG"


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", HEIC),
        (b"\0\0\0\x18ftypheix\0\0\0\0", HEIC),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", HEIC),
        (b"\0\0\0\x20ftypavif\0\0\0\0", AVIF),
        (b"\0\0\0\x20ftypavis\0\0\0\0", AVIF),
        (b"\0\0\0\x20ftypisom\0\0\0\0", ""),  # a film
        (b"\0\0\0\x20moovheic\0\0\0\0", ""),
        (b"\xff\x0a\xfa\x7f", JXL),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n\0\0", JXL),
        (b"II*\0rest", TIFF),
        (b"MM\0*rest", TIFF),
        (b"II+\0rest", TIFF),
        (b"MM\0+rest", TIFF),
        (b"II-\0rest", ""),
        (b"GIF89a", ""),
        (b"", ""),
    ],
)
def test_a_file_that_is_not_read_is_named_by_its_first_bytes(start, said):
    assert unread_kind(start) == said


def test_errors_are_named_by_their_first_line_without_addresses():
    assert first_line_of(ValueError("\n one\ntwo")) == "ValueError: one"
    assert first_line_of(OSError("a" * 130)) == "OSError: " + "a" * 120
    assert first_line_of(Image.DecompressionBombError()) == "DecompressionBombError"
    assert first_line_of(OSError(f"no image in {object()!r}")) == "OSError"
