"""Recognise which pixels are the hole in a mask with transparent pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infill.pipeline.images.arrays import Hole, grey
from infill.pipeline.images.mask_rule import MaskForm, MaskRule

LARGEST_SHARE = 1 / 3
"""Largest share of the image that the hole of a layer of one colour has."""
_SAME_COLOUR = 24
"""Levels by which a channel of one colour may differ: edges and losses of a format."""
_FEWEST_COLOURS = 32
_SAMPLED_SIDE = 256


def brightness(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the levels [H, W] of an array [H, W, C], without its alpha."""
    return grey(pixels[..., :3]) if pixels.shape[2] >= 3 else pixels[..., 0]


def layer_hole(pixels: NDArray[Any], rule: MaskRule) -> tuple[Hole, MaskForm] | None:
    """Return the hole of a mask whose opacity varies, and which pixels it is; None if unclear.

    Opaque are pixels above the middle of the lowest and the highest opacity. In this order:

    1. Colours of the rule's polarity where it is opaque, the others where it is transparent: the
       opaque pixels of that colour.
    2. One colour on transparency: the smaller part, if it is at most a third of the image. Opaque
       strokes are the hole, and so is what was erased from a layer of one colour.
    3. A photograph (many colours, no two of which cover half): its transparent pixels.

    The last two need pixels of opacity 0, and the polarity "white".

    Args:
        pixels: levels 0 to 255, [H, W, C] with C 2 or 4.
        rule: polarity and threshold of the colours.
    """
    alpha = pixels[..., -1]
    low, high = int(alpha.min()), int(alpha.max())
    opaque: Hole = alpha > (low + high) // 2
    bright = brightness(pixels) > rule.threshold
    marked = bright if rule.polarity == "white" else ~bright
    if marked[alpha >= high - (high - low) / 10].all() and not marked[alpha == low].any():
        return marked & opaque, "opaque"
    if low > 0 or rule.polarity == "black":
        return None
    if _one_colour(pixels, opaque):
        if opaque.mean() <= LARGEST_SHARE:
            return opaque, "opaque"
        return (~opaque, "transparent") if (~opaque).mean() <= LARGEST_SHARE else None
    return (~opaque, "transparent") if _photograph(pixels, opaque) else None


def _one_colour(pixels: NDArray[Any], opaque: Hole) -> bool:
    for channel in range(pixels.shape[2] - 1):
        levels = pixels[..., channel][opaque]
        if int(levels.max()) - int(levels.min()) > _SAME_COLOUR:
            return False
    return True


def _photograph(pixels: NDArray[Any], opaque: Hole) -> bool:
    """Return whether the opaque pixels have many colours, from at most 256 x 256 of them."""
    down, across = (-(-side // _SAMPLED_SIDE) for side in opaque.shape)
    sampled = pixels[::down, ::across, :-1][opaque[::down, ::across]].astype(np.int64)
    if not len(sampled):
        return False
    codes = (sampled * 256 ** np.arange(sampled.shape[1])).sum(axis=1)
    counts = np.sort(np.unique(codes, return_counts=True)[1])
    return len(counts) >= _FEWEST_COLOURS and int(counts[-2:].sum()) * 2 <= len(codes)
