"""Read mask files: one reader and one rule, wherever a mask comes from."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from infill.pipeline.errors import ImageError
from infill.pipeline.images import codec
from infill.pipeline.images.arrays import Hole, grey
from infill.pipeline.images.headers import (
    DECODE_ERRORS,
    FORMATS,
    MAX_PIXELS,
    NO_LIMIT_OF_PILLOW,
    RejectedError,
    read_header,
)

HOLE_THRESHOLD = 127
"""Mask pixels brighter than this are hole; compressed masks are not exactly black and white."""


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """Which pixels of a mask file are hole, and which files are read."""

    white_is_hole: bool = True
    """False if black marks the hole."""
    max_pixels: int = MAX_PIXELS
    """Height times width that is accepted."""
    any_format: bool = False
    """True also reads BMP, GIF and TIFF, the first of several frames, and 16 bits per channel:
    for files of one's own. Uploads are PNG, JPEG or WebP with 8 bits."""


def read_mask(data: bytes, rule: MaskRule) -> Hole:
    """Decode a mask file: pixels brighter than :data:`HOLE_THRESHOLD` are hole, or the others.

    Brightness is that of ITU-R BT.601; transparency is ignored and orientation (EXIF) applied.

    Args:
        data: the whole file.
        rule: which pixels are hole, and which files are read.

    Returns:
        bool [H, W], True in the hole.

    Raises:
        ImageError: if the file is not accepted.
    """
    pixels = _pixels_of_any_format(data, rule) if rule.any_format else _pixels(data, rule)
    bright = (pixels[..., 0] if pixels.shape[2] < 3 else grey(pixels[..., :3])) > HOLE_THRESHOLD
    return bright if rule.white_is_hole else ~bright


def _pixels(data: bytes, rule: MaskRule) -> NDArray[np.uint8]:
    return codec.decode(data, rule.max_pixels, "mask").pixels


def _pixels_of_any_format(data: bytes, rule: MaskRule) -> NDArray[np.uint8]:
    try:
        read_header(data, rule.max_pixels)
        with NO_LIMIT_OF_PILLOW, Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I"):
                return (np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8)[..., None]
            pixels = np.asarray(codec.plain(upright))
    except (RejectedError, *DECODE_ERRORS) as error:
        raise ImageError("damaged_image", f"the mask cannot be read: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)
