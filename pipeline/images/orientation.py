"""Orientation by EXIF alone, as browsers show images; XMP and text chunks do not count.

Pillow would also read it from XMP, which OpenCV, browsers and most viewers ignore.
"""

from collections.abc import Callable

from PIL import ExifTags, Image, ImageOps

from infill.pipeline.images.png_chunks import exif_chunk

_ELSEWHERE = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1")
"""What else Pillow reads orientation from, by its names."""
ON_ITS_SIDE = range(5, 9)
"""EXIF orientations with which width and height change places."""


def forget_other_orientations(image: Image.Image) -> None:
    """Let Pillow read an image's orientation from its EXIF alone; needed before it is loaded."""
    for name in _ELSEWHERE:
        image.info.pop(name, None)


def orientation_in(data: bytes, image: Image.Image) -> int:
    """Return the EXIF orientation of a file, 1 to 8; 1 is upright.

    No pixel is decoded: Pillow would decode a whole PNG to find what may follow the pixels.

    Args:
        data: the file.
        image: the same, opened by Pillow.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return _orientation(lambda: _parsed(exif_chunk(data)))
    forget_other_orientations(image)
    return _orientation(image.getexif)


def turn_upright(image: Image.Image) -> Image.Image:
    """Return a loaded image turned by its EXIF orientation."""
    return image if orientation_of(image) == 1 else ImageOps.exif_transpose(image)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 to 8; 1 is upright."""
    forget_other_orientations(image)
    return _orientation(image.getexif)


def _orientation(read: Callable[[], Image.Exif]) -> int:
    try:
        found = read().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises any exception for hostile EXIF, which browsers ignore
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _parsed(exif: bytes | None) -> Image.Exif:
    parsed = Image.Exif()
    if exif:
        parsed.load(exif)
    return parsed
