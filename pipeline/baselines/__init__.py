"""Inpainting without a network: mean fill, Telea and Navier-Stokes by OpenCV, PatchMatch.

Every baseline takes one image and its hole and returns a prediction, all in 8-bit RGB. One that
:func:`load_baseline` returns gets a copy without the pixels in the hole. OpenCV uses BGR, but the
order of the channels does not matter here: Telea's weights come from the hole's shape alone,
Navier-Stokes is solved per channel, and patches are compared by the sum over channels.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from infill.pipeline.baselines.patchmatch import patchmatch
from infill.pipeline.errors import UserError
from infill.pipeline.images import ByteHole, Pixels

__all__ = ["BASELINES", "Baseline", "load_baseline", "mean_fill", "navier_stokes", "telea"]

Baseline = Callable[[Pixels, ByteHole], Pixels]
"""``baseline(image [H, W, 3], hole [H, W], 1 = missing) -> prediction [H, W, 3]``."""

RADIUS_PX = 3
"""Neighbourhood of cv2.inpaint, the value of OpenCV's own examples."""
UNKNOWN = 128
"""The level of the prediction if no pixel is known: the middle of the 8-bit range."""


def mean_fill(image: Pixels, hole: ByteHole) -> Pixels:
    """Fill the hole with the mean of the known pixels, per channel, rounded to 8 bits.

    Args:
        image: uint8 [H, W, 3]; pixels inside the hole are ignored.
        hole: uint8 [H, W], 1 where missing. If no pixel is known, the mean is 128.
    """
    known = hole == 0
    mean = image[known].mean(axis=0) if known.any() else np.full(3, UNKNOWN)
    filled = image.copy()
    filled[~known] = np.rint(mean).astype(np.uint8)
    return filled


def telea(image: Pixels, hole: ByteHole) -> Pixels:
    """Fill by Telea's fast marching (J. Graphics Tools 2004), as OpenCV has it; radius 3 px."""
    return _inpaint(image, hole, cv2.INPAINT_TELEA)


def navier_stokes(image: Pixels, hole: ByteHole) -> Pixels:
    """Fill by fluid dynamics (Bertalmio et al., CVPR 2001), as OpenCV has it; radius 3 px."""
    return _inpaint(image, hole, cv2.INPAINT_NS)


def _inpaint(image: Pixels, hole: ByteHole, method: int) -> Pixels:
    # OpenCV returns its input if no pixel is known, so the hole is hidden first.
    hidden = mean_fill(image, hole)
    filled: Pixels = cv2.inpaint(hidden, (hole != 0).astype(np.uint8), RADIUS_PX, method)
    return filled


BASELINES: dict[str, Baseline] = {
    "mean-fill": mean_fill,
    "telea": telea,
    "navier-stokes": navier_stokes,
    "patchmatch": patchmatch,
}
"""Every baseline by the name that reports show."""


def load_baseline(name: str) -> Baseline:
    """Return a baseline by its name.

    Raises:
        UserError: if the name is unknown; the message lists the known names.
    """
    if name not in BASELINES:
        raise UserError(f"unknown baseline {name!r}; there are: {', '.join(BASELINES)}")
    return partial(_apply, name)


def _apply(name: str, image: Pixels, hole: ByteHole) -> Pixels:
    """Return the prediction of a baseline that cannot see the hole, nor change the image.

    Raises:
        ValueError: if it is not an 8-bit image of the same size.
    """
    hidden = np.where(hole[..., None] == 0, image, np.uint8(UNKNOWN))
    filled = BASELINES[name](hidden, hole.copy())
    if filled.shape != image.shape or filled.dtype != np.uint8:
        raise ValueError(
            f"the baseline {name} must return uint8 {list(image.shape)}, not "
            f"{filled.dtype} {list(filled.shape)}"
        )
    return filled
