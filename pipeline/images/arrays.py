"""The array types of images and masks."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""RGB, uint8 [..., H, W, 3]; red comes first everywhere outside ``pipeline/images``."""
Hole = NDArray[np.bool_]
"""bool [H, W], True in the hole."""
ByteHole = NDArray[np.uint8]
"""uint8 [..., H, W], 1 in the hole, 0 where known; for OpenCV and tensors."""

_GREY_PIXELS = 2**18  # whose brightness is computed at once, at 24 bytes each
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's own "L"


def is_uint16(array: NDArray[Any]) -> bool:
    """Return whether an array has unsigned integers of 16 bits, in any order of their bytes."""
    return array.dtype.kind == "u" and array.dtype.itemsize == 2


def grey(rgb: NDArray[Any]) -> NDArray[np.uint8]:
    """Return brightness, uint8 [...], of values 0 to 255, [..., 3], a few rows at a time."""
    brightness = np.empty(rgb.shape[:-1], np.uint8)
    rows = max(_GREY_PIXELS // max(math.prod(rgb.shape[1:-1]), 1), 1)
    for start in range(0, len(rgb), rows):
        part = slice(start, start + rows)
        brightness[part] = np.rint(rgb[part] @ _GREY_WEIGHTS)
    return brightness


def composite(prediction: Pixels, image: Pixels, hole: ByteHole | Hole) -> Pixels:
    """Return the known pixels of the image and, in the hole, those of the prediction.

    The 8-bit counterpart of :func:`infill.models.masking.paste`.

    Args:
        prediction: uint8 [..., H, W, 3].
        image: uint8 [..., H, W, 3].
        hole: [..., H, W], bool or uint8 with 1 in the hole.
    """
    return np.where(hole[..., None] != 0, prediction, image)
