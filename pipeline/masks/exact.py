"""Geometry of masks in whole numbers: the same on every processor and at every memory address."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from infill.pipeline.images import ByteHole

ONE = 1 << 16
"""1 in the fixed-point numbers of sines, cosines and matrices."""
FARTHEST = 1 << 21
"""Squared distances from here on (1,448 px) are equal: float32 still rounds smaller ones to the
right whole number."""
SINES = tuple(round(ONE * math.sin(math.radians(degrees))) for degrees in range(91))
"""Sines of whole degrees, as multiples of 1 / ``ONE``."""


def squared_distances(inside: ByteHole) -> NDArray[np.int32]:
    """Return the squared Euclidean distance of each pixel of ``inside`` to the nearest other one.

    Args:
        inside: [H, W] uint8, 1 or 0.

    Returns:
        [H, W] int32 in pixels squared: 0 outside, at most ``FARTHEST``.
    """
    if inside.all():
        return np.full(inside.shape, FARTHEST, np.int32)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    squared = np.rint(np.square(distance, dtype=np.float64))
    whole: NDArray[np.int32] = np.minimum(squared, FARTHEST).astype(np.int32)
    return whole


def sample(image: ByteHole, matrix: NDArray[np.float64], height: int, width: int) -> ByteHole:
    """Return an image under an affine map, by the nearest pixel; its border continues outside.

    Args:
        image: [h, w] uint8.
        matrix: [2, 3], from (column, row, 1) of the result to (column, row) of ``image``.
        height: height of the result in pixels.
        width: width of the result in pixels.
    """
    fixed = np.rint(matrix * ONE).astype(np.int64)
    columns, rows = np.arange(width, dtype=np.int64), np.arange(height, dtype=np.int64)[:, None]
    from_column, from_row = (
        (a * columns + b * rows + c + ONE // 2) >> 16 for a, b, c in fixed.tolist()
    )
    np.clip(from_column, 0, image.shape[1] - 1, out=from_column)
    np.clip(from_row, 0, image.shape[0] - 1, out=from_row)
    sampled: ByteHole = image[from_row, from_column]
    return sampled


def rotate(hole: ByteHole, degrees: int) -> ByteHole:
    """Rotate a hole about its centre by 0 to 90 degrees on a canvas that holds all of its frame."""
    height, width = hole.shape
    sine, cosine = SINES[degrees], SINES[90 - degrees]
    wide = _extent(width, width * cosine + height * sine)
    tall = _extent(height, width * sine + height * cosine)
    # Twice the distance from the middle, so that halves of pixels are whole numbers.
    columns = 2 * np.arange(wide, dtype=np.int64) + 1 - wide
    rows = (2 * np.arange(tall, dtype=np.int64) + 1 - tall)[:, None]
    x = (cosine * columns + sine * rows + width * ONE) >> 17
    y = (cosine * rows - sine * columns + height * ONE) >> 17
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    found = hole[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    rotated: ByteHole = found * inside
    return rotated


def _extent(side: int, rotated: int) -> int:
    """Return the side of a canvas from the frame's side and the rotated frame's, times ``ONE``."""
    return -(-(side * ONE + rotated) >> 17) - (side * ONE - rotated >> 17)


def resize_nearest(hole: ByteHole, height: int, width: int) -> ByteHole:
    """Resize a hole by the nearest pixel."""
    rows = (2 * np.arange(height) + 1) * hole.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * hole.shape[1] // (2 * width)
    resized: ByteHole = hole[np.ix_(rows, columns)]
    return resized


def resize_mask(hole: ByteHole, height: int, width: int) -> ByteHole:
    """Resize a mask by the nearest pixel, as MADF and SPN do, without losing all of its hole.

    Where every pixel of one kind, hole or known, would be lost, each of them marks the pixel that
    covers it. Marks that fill the frame are the same as a mask of one kind: it is returned.
    """
    resized = resize_nearest(hole, height, width)
    lost = {0: 1, resized.size: 0}.get(cv2.countNonZero(resized))
    if lost is None:
        return resized
    rows, columns = np.nonzero(hole == lost)
    # Only a side that shrinks loses pixels; the other is enlarged from the marks.
    low, narrow = min(height, hole.shape[0]), min(width, hole.shape[1])
    small = np.full((low, narrow), 1 - lost, np.uint8)
    small[rows * low // hole.shape[0], columns * narrow // hole.shape[1]] = lost
    return resize_nearest(small, height, width)
