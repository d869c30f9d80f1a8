"""Resize decoded originals, and hash them for near-duplicates; pixels are RGB."""

import cv2
import numpy as np

from infill.pipeline.images import Pixels


def resize_short_side(image: Pixels, side_px: int, *, labels: bool = False) -> Pixels:
    """Reduce an image to the short side ``side_px``; smaller images are unchanged.

    Args:
        image: [H, W, 3].
        side_px: the short side.
        labels: whether it is a label map, whose colours must not be mixed.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= side_px:
        return image
    size = (round(width * side_px / short), round(height * side_px / short))
    method = cv2.INTER_NEAREST_EXACT if labels else cv2.INTER_AREA
    shrunk: Pixels = cv2.resize(image, size, interpolation=method)
    return shrunk


def squash(image: Pixels, side_px: int, *, labels: bool = False) -> Pixels:
    """Resize both sides to ``side_px``, without regard to the aspect ratio.

    The arguments are those of :func:`resize_short_side`.
    """
    height, width = image.shape[:2]
    if height == width == side_px:
        return image
    method = cv2.INTER_AREA if min(height, width) >= side_px else cv2.INTER_LINEAR
    if labels:
        method = cv2.INTER_NEAREST_EXACT
    squashed: Pixels = cv2.resize(image, (side_px, side_px), interpolation=method)
    return squashed


def perceptual_hash(image: Pixels) -> int:
    """Return 64 bits that near-duplicates share: whether brightness rises, on an 8 x 8 grid.

    Encoding again, scaling and a change of brightness flip few of them.
    """
    # Whole blocks first, which OpenCV averages much faster; less than a block of the right and
    # lower edge is ignored.
    height, width = image.shape[:2]
    block = max(1, min(height, width) // 64)
    rows, columns = height // block, width // block
    whole = image[: rows * block, : columns * block]
    blocks = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    small = cv2.resize(blocks, (9, 8), interpolation=cv2.INTER_AREA)
    grey = small.astype(np.int64) @ np.array([299, 587, 114])  # BT.601, in thousandths
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")
