"""EXIF and resolution of an image, for its composite.

The thumbnail is left out, as it would show what the hole was, and the orientation, as pixels are
upright. EXIF that cannot be read is left out, too.
"""

from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

_LONGEST_EXIF = {"jpeg": 65_527, "png": 2**24, "webp": 2**24}
"""Maximum bytes of EXIF in each format."""
_MAX_DPI = 65_535


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is kept of an image beside its pixels and its colour profile."""

    exif: bytes = b""
    """EXIF with its prefix, without thumbnail and orientation; empty if there is none."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical resolution in pixels per inch."""

    def options(self, form: str) -> dict[str, Any]:
        """Return Pillow's options to save it in a format: "png", "jpeg" or "webp"."""
        kept: dict[str, Any] = {}
        if self.exif and len(self.exif) <= _LONGEST_EXIF[form]:
            kept["exif"] = self.exif
        if self.dpi and form != "webp":
            kept["dpi"] = self.dpi
        return kept


def read_metadata(image: Image.Image, *, upright: bool = True) -> Metadata:
    """Return the metadata of an image that Pillow has loaded.

    Args:
        image: the image, with the orientation of its file.
        upright: whether its pixels are turned upright, so that the orientation is left out.
    """
    dpi = image.info.get("dpi")
    usable = (
        isinstance(dpi, tuple) and len(dpi) == 2 and all(1 <= float(d) <= _MAX_DPI for d in dpi)
    )
    return Metadata(
        exif=_exif(image, upright), dpi=(float(dpi[0]), float(dpi[1])) if usable and dpi else None
    )


def _exif(image: Image.Image, upright: bool) -> bytes:
    if not image.info.get("exif"):
        return b""
    try:
        exif = image.getexif()
        if upright:
            exif.pop(ExifTags.Base.Orientation, None)
        return exif.tobytes() if len(exif) else b""
    except Exception:  # Pillow raises any exception for hostile EXIF
        return b""
