"""Read mask files: one reader and one rule, wherever a mask comes from."""

import io
from dataclasses import dataclass
from typing import Any

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
    """The rule for mask files: which pixels are the hole, and which files are accepted."""

    white_is_hole: bool = True
    """Whether white marks the hole; False if black does."""
    max_pixels: int = MAX_PIXELS
    """Maximum height times width."""
    any_format: bool = False
    """Whether to read BMP, GIF and TIFF as well, the first of several frames, and 16 bits per
    channel: for local files. Uploads are PNG, JPEG or WebP with 8 bits."""


def read_mask(mask: bytes | NDArray[Any], rule: MaskRule) -> Hole:
    """Read a mask: pixels brighter than :data:`HOLE_THRESHOLD` are the hole, or the others.

    Brightness is that of ITU-R BT.601; transparency is ignored and orientation (EXIF) applied.

    Args:
        mask: the whole file; or an array [H, W] or [H, W, C]: bool, uint8 in 0 to 255, or
            floating in 0 to 1.
        rule: which pixels are the hole, and which files are accepted.

    Returns:
        bool [H, W], True in the hole.

    Raises:
        ImageError: if the file is not accepted, or the array has another type or shape; uint8 with
            only 0 and 1 is refused, as both would be dark.
    """
    if isinstance(mask, bytes):
        pixels = _pixels_of_any_format(mask, rule) if rule.any_format else _pixels(mask, rule)
    else:
        pixels = _levels(mask if mask.ndim == 3 else mask[..., None])
    bright = (pixels[..., 0] if pixels.shape[2] < 3 else grey(pixels[..., :3])) > HOLE_THRESHOLD
    return bright if rule.white_is_hole else ~bright


def _levels(mask: NDArray[Any]) -> NDArray[Any]:
    """Return the levels 0 to 255 of an array [H, W, C]."""
    if mask.ndim != 3 or mask.shape[2] not in (1, 2, 3, 4):
        raise ImageError("bad_request", f"a mask is [H, W] or [H, W, C], not {mask.shape}")
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8) * np.uint8(255)
    if mask.dtype == np.uint8:
        if mask.max(initial=0) == 1:
            raise ImageError(
                "bad_request", "the mask's values are 0 and 1: give mask.astype(bool), or 0 and 255"
            )
        return mask
    if mask.dtype.kind == "f" and mask.min(initial=0) >= 0 and mask.max(initial=0) <= 1:
        return np.rint(mask.astype(np.float64) * 255)
    raise ImageError(
        "bad_request",
        f"the mask is {mask.dtype}: give bool, uint8 in 0 to 255, or floating in 0 to 1",
    )


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
