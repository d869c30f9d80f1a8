"""Read the headers of originals of many formats, before their pixels are decoded.

:class:`RejectedError` gives the reason why an original is rejected. :data:`FORMATS` is the one
table of what is read, by every job and by the service.
"""

import io
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Literal

import cv2
from PIL import Image, ImageFile, UnidentifiedImageError

from infill.pipeline.errors import RejectedError, TooManyPixelsError, UnknownFormatError
from infill.pipeline.images.avif_frames import frame_sizes
from infill.pipeline.images.jpeg_scans import require_few_scans
from infill.pipeline.images.kinds import OPTIONAL_FORMATS, readable_suffixes, unread_kind
from infill.pipeline.images.orientation import ON_ITS_SIDE, orientation_in
from infill.pipeline.images.png_chunks import doubtful_sizes, require_one_header, without_text

MAX_PIXELS = 2**26
"""Default maximum of height times width."""
_ALWAYS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
FORMATS = (*_ALWAYS, *dict.fromkeys(OPTIONAL_FORMATS[suffix] for suffix in readable_suffixes()))
"""Formats that Pillow may open (its JPEG reader reads MPO too); others run programs or are rare."""
SUFFIX_OF = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats whose bytes can be kept."""
DECODE_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
    struct.error,
    zlib.error,
    cv2.error,
    Image.DecompressionBombError,
)
"""Exceptions of Pillow and OpenCV for invalid images, found by damaging images."""


TiffLayout = Literal["usual", "by Pillow", "white as zero"]
"""How a TIFF is decoded: as others, by Pillow with libtiff, or by OpenCV and inverted."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of an image, before its pixels are decoded."""

    format: str
    """One of :data:`FORMATS`, or "MPO": a JPEG with more images behind it."""
    mode: str
    """Pillow's name for the kind of pixels."""
    deep: bool
    """Whether it has more than 8 bits per channel."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    height_px: int
    """Height once upright."""
    width_px: int
    """Width once upright."""
    layout: TiffLayout
    """The layout of a TIFF; "usual" for all others."""
    plain: bool
    """Whether its bytes can be kept: every reader decodes them to the same 8-bit grey or RGB."""


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read an image's header, so that a decompression bomb is refused before decoding.

    Plain is a still 8-bit grey or RGB JPEG, PNG or WebP without transparency; only a JPEG may
    carry an EXIF orientation, which ``cv2.imread`` honours.

    Raises:
        RejectedError: if it is empty, not an image of a known format, truncated, or too large.
    """
    if not data:
        raise RejectedError("empty file")
    try:
        require_few_scans(data)
    except ValueError as error:
        raise RejectedError(str(error)) from error
    try:
        for width, height in (*doubtful_sizes(data), *frame_sizes(data)):
            _require_few_pixels(width, height, max_pixels)
        require_one_header(data)
        with (
            NO_LIMIT_OF_PILLOW,
            Image.open(io.BytesIO(without_text(data)), formats=FORMATS) as image,
        ):
            return _header(data, image, max_pixels)
    except RejectedError:
        raise
    except UnidentifiedImageError as error:
        raise UnknownFormatError(unread_kind(data) or "not an image of a known format") from error
    except DECODE_ERRORS as error:
        raise RejectedError(f"damaged header: {first_line_of(error)}") from error


def _header(data: bytes, image: ImageFile.ImageFile, max_pixels: int) -> Header:
    width, height = image.size
    _require_few_pixels(width, height, max_pixels)
    if width < 1 or height < 1:
        raise RejectedError(f"{width} x {height} pixels")
    kind = str(image.format)
    orientation = _orientation(data, image)
    if orientation in ON_ITS_SIDE:
        width, height = height, width
    deep = _is_deep(data, image)
    if kind == "TIFF":
        _refuse_large_tiles(image, max_pixels)
    still = kind not in ("PNG", "WEBP") or getattr(image, "n_frames", 1) == 1
    clear = "transparency" not in image.info and image.mode in ("L", "RGB")
    eight_bit = kind != "PNG" or data[24:25] == b"\x08"
    upright = orientation == 1 or SUFFIX_OF.get(kind) == "jpg"
    return Header(
        format=kind,
        mode=image.mode,
        deep=deep,
        orientation=orientation,
        height_px=height,
        width_px=width,
        layout=_tiff_layout(image, deep) if kind == "TIFF" else "usual",
        plain=kind in SUFFIX_OF and still and clear and eight_bit and upright,
    )


def _require_few_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixelsError(f"{width} x {height} pixels are more than max_pixels {max_pixels}")


def _orientation(data: bytes, image: ImageFile.ImageFile) -> int:
    """Return EXIF's orientation."""
    if image.format == "TIFF":  # Pillow rotates these by itself
        return 1
    return orientation_in(data, image)


def _refuse_large_tiles(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuse a TIFF whose tiles, which are decoded whole, are larger than an image may be."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    width, height = tags.get(322, 0), tags.get(323, 0)
    if width * height > max_pixels:
        raise RejectedError(f"tiles of {width} x {height} pixels are more than {max_pixels}")


def _tiff_layout(image: ImageFile.ImageFile, deep: bool) -> TiffLayout:
    """Return how a TIFF has to be decoded.

    Raises:
        RejectedError: if no decoder here has its right pixels.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    extra = tags.get(338, (0,))
    premultiplied = 1 in (extra if isinstance(extra, tuple) else (extra,))
    colour_model, apart = tags.get(262, 1), tags.get(284, 1) != 1
    if apart and image.mode in ("LA", "La"):
        raise RejectedError("a TIFF with grey and opacity in planes: convert it to PNG")
    if deep and colour_model == 0:
        if image.mode != "I;16" or tags.get(258) != (16,):
            raise RejectedError("a TIFF with white as zero, but not of 16 bits: convert it to PNG")
        return "white as zero"
    if apart or (deep and (premultiplied or colour_model not in (1, 2))):
        return "by Pillow"
    return "usual"


def _is_deep(data: bytes, image: Image.Image) -> bool:
    """Return whether there are 16 bits per channel: Pillow calls a 16-bit colour PNG "RGB"."""
    if image.format == "PNG":
        return data[24:25] == b"\x10"
    bits = image.tag_v2.get(258, (8,)) if image.format == "TIFF" else (8,)  # type: ignore[attr-defined]
    return image.mode.startswith("I") or max(bits) > 8


class _NoLimitOfPillow:
    """Disables Pillow's own global limit, so that ``max_pixels`` applies in every thread."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.before: int | None = None

    def __enter__(self) -> None:
        with self.lock:
            if self.users == 0:
                self.before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1

    def __exit__(self, *reason: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                Image.MAX_IMAGE_PIXELS = self.before


NO_LIMIT_OF_PILLOW = _NoLimitOfPillow()


def first_line_of(error: BaseException) -> str:
    """Return an error's first line without parts that differ between runs (object addresses)."""
    lines = str(error).strip().splitlines()
    if not lines or " at 0x" in lines[0]:
        return type(error).__name__
    return f"{type(error).__name__}: {lines[0][:120]}"
