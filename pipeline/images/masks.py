"""Read mask files: one reader and one rule, wherever a mask comes from."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infill.pipeline.errors import ImageError, RejectedError
from infill.pipeline.images import codec
from infill.pipeline.images.arrays import Hole, grey
from infill.pipeline.images.headers import (
    DECODE_ERRORS,
    FORMATS,
    MAX_PIXELS,
    NO_LIMIT_OF_PILLOW,
    Header,
    first_line_of,
)
from infill.pipeline.images.mask_rule import HOLE_THRESHOLD, MaskRule
from infill.pipeline.images.orientation import forget_other_orientations, turn_upright
from infill.pipeline.images.png_chunks import without_text


def read_mask(
    mask: bytes | NDArray[Any],
    rule: MaskRule | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    fields: str = "mask_",
) -> Hole:
    """Read a mask: levels above the rule's threshold are the hole, or the others.

    Brightness is that of ITU-R BT.601; orientation (EXIF) is applied. Of 16 bits the higher 8
    count, or the lower 8 if no value needs more.

    Args:
        mask: the whole file; or an array [H, W] or [H, W, C]: bool, uint8 in 0 to 255, or
            floating in 0 to 1.
        rule: which pixels are the hole; by default those brighter than 127.
        max_pixels: maximum height times width of a file.
        fields: what precedes ``polarity``, ``threshold`` and ``channel`` where the caller sets
            them, for messages.

    Returns:
        bool [H, W], True in the hole; it has pixels of both kinds.

    Raises:
        ImageError: if the file is not accepted, the array has another type or shape, the mask marks
            no or all pixels, or its colours and its transparency mark different pixels; a uint8
            array with only 0 and 1 is refused, as both would be dark.
    """
    rule = rule or MaskRule()
    if isinstance(mask, bytes):
        pixels = codec.decode(mask, max_pixels, "mask", decode_levels).pixels
    else:
        pixels = _array_levels(mask if mask.ndim == 3 else mask[..., None], rule)
    levels = _channel(pixels, rule, fields)
    bright = levels > rule.threshold
    hole = bright if rule.polarity == "white" else ~bright
    alpha = _alpha(pixels)
    if rule.channel == "auto" and alpha is not None and _varies(alpha):
        hole = _visible_hole(hole, alpha, fields)
    _require_both(hole, levels, rule, fields)
    return hole


def _channel(pixels: NDArray[Any], rule: MaskRule, fields: str) -> NDArray[Any]:
    """Return the levels [H, W] of the rule's channel."""
    coloured = pixels.shape[2] >= 3
    if rule.channel == "alpha":
        alpha = _alpha(pixels)
        if alpha is None:
            raise ImageError(
                "bad_request",
                "the mask has no transparency to read: give one with transparent pixels, or "
                f"another {fields}channel",
            )
        return alpha
    if rule.channel in ("red", "green", "blue"):
        at = ("red", "green", "blue").index(rule.channel)
        return pixels[..., at if coloured else 0]
    return grey(pixels[..., :3]) if coloured else pixels[..., 0]


def _alpha(pixels: NDArray[Any]) -> NDArray[Any] | None:
    return pixels[..., -1] if pixels.shape[2] in (2, 4) else None


def _varies(levels: NDArray[Any]) -> bool:
    return bool(levels.min(initial=255) != levels.max(initial=0))


def _visible_hole(hole: Hole, alpha: NDArray[Any], fields: str) -> Hole:
    """Return the hole of a mask that marks exactly its opaque pixels; soft edges may differ."""
    if not hole[alpha == 255].all() or hole[alpha == 0].any():
        raise ImageError(
            "bad_request",
            "the mask has transparent pixels, and its colours and its transparency mark different "
            f"pixels: give {fields}channel=alpha if opaque pixels are the hole (with "
            f"{fields}polarity=black, if transparent ones are), or {fields}channel=brightness to "
            "ignore transparency",
        )
    visible: Hole = hole & (alpha > HOLE_THRESHOLD)
    return visible


def _require_both(hole: Hole, levels: NDArray[Any], rule: MaskRule, fields: str) -> None:
    """Refuse a hole that is empty or covers everything, and say which levels there are."""
    if not hole.size or (hole.any() and not hole.all()):
        return
    lowest, highest = int(levels.min()), int(levels.max())
    what = {"alpha": "more opaque", "auto": "brighter", "brightness": "brighter"}
    side = f"{what.get(rule.channel, f'more {rule.channel}')} than {rule.threshold}"
    found = f"its levels are {lowest} to {highest}" if highest > lowest else f"all are {lowest}"
    better = f"={lowest}" if highest == lowest + 1 else f" from {lowest} to {highest - 1}"
    cure = f"; to separate them give {fields}threshold{better}" if highest > lowest else ""
    if not hole.any():
        reason = f"no pixel is {side}" if rule.polarity == "white" else f"every pixel is {side}"
        raise ImageError("empty_mask", f"nothing is marked as hole: {reason} ({found}){cure}")
    other = "black" if rule.polarity == "white" else "white"
    if not cure:
        cure = f"; if {other} means hole, send {fields}polarity={other}"
    every = "every" if rule.polarity == "white" else "no"
    raise ImageError(
        "full_mask", f"the whole image is marked as hole: {every} pixel is {side} ({found}){cure}"
    )


def _array_levels(mask: NDArray[Any], rule: MaskRule) -> NDArray[Any]:
    """Return the levels 0 to 255 of an array [H, W, C]."""
    if mask.ndim != 3 or mask.shape[2] not in (1, 2, 3, 4):
        raise ImageError("bad_request", f"a mask is [H, W] or [H, W, C], not {mask.shape}")
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8) * np.uint8(255)
    if mask.dtype == np.uint8:
        if mask.max(initial=0) == 1 and rule.threshold > 0:
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


def decode_levels(data: bytes, header: Header) -> NDArray[np.uint8]:
    """Return a mask's levels, uint8 [H, W, C], from a file of any format that is read.

    Of several frames it is the first; opacity is kept as a channel.

    Args:
        data: the file.
        header: its header, which :func:`read_header` has checked.

    Raises:
        RejectedError: if it cannot be decoded.
    """
    try:
        with (
            NO_LIMIT_OF_PILLOW,
            Image.open(io.BytesIO(without_text(data)), formats=FORMATS) as opened,
        ):
            forget_other_orientations(opened)
            opened.load()
            upright = turn_upright(opened)
            if upright.mode.startswith("I"):
                values = np.asarray(upright)
                values = values if values.max(initial=0) <= 255 else values >> 8
                return values.clip(0, 255).astype(np.uint8)[..., None]
            pixels = np.asarray(codec.plain(upright))
    except DECODE_ERRORS as error:
        raise RejectedError(f"cannot be decoded: {first_line_of(error)}") from error
    return pixels.reshape(*pixels.shape[:2], -1)
