"""Orientation by EXIF alone, as browsers show images; XMP and text chunks do not count.

Pillow would also read it from XMP, which OpenCV, browsers and most viewers ignore.
"""

from PIL import ExifTags, Image, ImageOps

_ELSEWHERE = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1")
"""What else Pillow reads orientation from, by its names."""


def forget_other_orientations(image: Image.Image) -> None:
    """Let Pillow read an image's orientation from its EXIF alone; needed before it is loaded."""
    for name in _ELSEWHERE:
        image.info.pop(name, None)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright."""
    forget_other_orientations(image)
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turn_upright(image: Image.Image) -> Image.Image:
    """Return an image turned by its EXIF orientation."""
    forget_other_orientations(image)
    return ImageOps.exif_transpose(image)
