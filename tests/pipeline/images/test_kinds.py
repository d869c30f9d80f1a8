"""What files are by their names and first bytes, and what errors of their readers say."""

import pytest
from PIL import Image

from infill.pipeline.images import kinds
from infill.pipeline.images.headers import first_line_of
from infill.pipeline.images.kinds import is_mask_name, is_read, suffix_if_unread, unread_kind

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


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("IMG_1.HEIC", ".heic"),
        ("folder.v2/a.b.jxl", ".jxl"),
        ("raw.CR2", ".cr2"),
        ("photo.heif", ".heif"),
        ("a.avif", ""),
        ("a.png", ""),
        ("a.txt", ""),
        ("heic", ""),
    ],
)
def test_a_file_of_a_kind_that_is_not_read_is_counted_by_its_suffix(monkeypatch, name, suffix):
    monkeypatch.setattr(kinds, "readable_suffixes", lambda: (".avif",))
    assert suffix_if_unread(name) == suffix
    assert is_read(name) == name.endswith((".avif", ".png"))


def test_a_file_is_read_once_its_kind_is():
    assert is_read("a.HEIC")
    assert is_read("a.heif")
    assert suffix_if_unread("a.heic") == ""
    assert not is_read("a.heic.txt")


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("x.mask.png", True),
        ("a.b/x.MASKS.png", True),
        ("x.hole.jpg", True),
        ("x.y.mask.png", True),
        ("mask.png", False),
        ("x.mask.d/y.png", False),
        ("x.png", False),
        ("x.mask", False),
        ("x.other.png", False),
    ],
)
def test_a_mask_beside_an_image_is_told_by_its_name(name, marked):
    assert is_mask_name(name) == marked
