"""EXIF and resolution of an image, for its composite.

The thumbnail is left out, as it would show what the hole was, and the orientation, as pixels are
upright; of a photograph on its side, what is said of width and height changes places. EXIF that
cannot be read is left out, too.
"""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from infill.pipeline.images.orientation import ON_ITS_SIDE, orientation_of

_LONGEST_EXIF = {"jpeg": 65_527, "png": 2**24, "webp": 2**24}
"""Maximum bytes of EXIF in each format."""
_MAX_DPI = 65_535
_SIDES = (
    (ExifTags.Base.XResolution, ExifTags.Base.YResolution),
    (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength),
)
"""Tags of the first directory of EXIF that speak of a width, each with that of the height."""
_SIDES_OF_CAMERA = (
    (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight),
    (ExifTags.Base.FocalPlaneXResolution, ExifTags.Base.FocalPlaneYResolution),
)
"""The same of the camera's directory."""


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
    kept = (float(dpi[0]), float(dpi[1])) if usable and dpi else None
    turned = upright and orientation_of(image) in ON_ITS_SIDE
    if kept and turned:
        kept = kept[::-1]
    return Metadata(exif=_exif(image, upright, turned), dpi=kept)


def _exif(image: Image.Image, upright: bool, turned: bool) -> bytes:
    if not image.info.get("exif"):
        return b""
    try:
        exif = image.getexif()
        if upright:
            exif.pop(ExifTags.Base.Orientation, None)
        if turned:
            _exchange(exif, _SIDES)
            if ExifTags.IFD.Exif in exif:  # Asking for it would make an empty one.
                _exchange(exif.get_ifd(ExifTags.IFD.Exif), _SIDES_OF_CAMERA)
        return exif.tobytes() if len(exif) else b""
    except Exception:  # Pillow raises any exception for hostile EXIF
        return b""


def _exchange(tags: MutableMapping[int, Any], pairs: Iterable[tuple[int, int]]) -> None:
    """Give each tag of a pair the other's value; one that stands alone becomes the other."""
    for one, other in pairs:
        found = {name: tags.pop(name) for name in (one, other) if name in tags}
        for name, value in found.items():
            tags[other if name == one else one] = value
