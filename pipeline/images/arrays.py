"""The array types of images and masks."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""RGB, uint8 [..., H, W, 3]; red comes first everywhere outside ``pipeline/images``."""
Hole = NDArray[np.bool_]
"""bool [H, W], True in the hole."""
ByteHole = NDArray[np.uint8]
"""uint8 [..., H, W], 1 in the hole, 0 where known; for OpenCV and tensors."""

_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's own "L"


def grey(rgb: Pixels) -> NDArray[np.uint8]:
    """Return brightness, uint8 [H, W], of uint8 [H, W, 3]."""
    brightness: NDArray[np.uint8] = np.rint(rgb @ _GREY_WEIGHTS).astype(np.uint8)
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
