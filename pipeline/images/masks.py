"""Read mask files: one reader and one rule, wherever a mask comes from."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infill.pipeline.errors import ImageError, RejectedError
from infill.pipeline.images import codec
from infill.pipeline.images.arrays import Hole, Pixels, is_uint16
from infill.pipeline.images.headers import (
    DECODE_ERRORS,
    FORMATS,
    MAX_PIXELS,
    NO_LIMIT_OF_PILLOW,
    Header,
    first_line_of,
)
from infill.pipeline.images.mask_layers import brightness, layer_hole
from infill.pipeline.images.mask_rule import MaskForm, MaskRule
from infill.pipeline.images.orientation import forget_other_orientations, turn_upright
from infill.pipeline.images.originals import deep_opacity
from infill.pipeline.images.png_chunks import correct_transparency, without_text


def read_mask(
    mask: bytes | NDArray[Any],
    rule: MaskRule | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    fields: str | None = "mask_",
) -> Hole:
    """Read a mask: levels above the rule's threshold are the hole, or the others.

    Brightness is that of ITU-R BT.601; orientation (EXIF) is applied. Of 16 bits the higher 8
    count, or the lower 8 if no value needs more. How transparency counts:
    :class:`MaskRule`'s ``channel``.

    Args:
        mask: the whole file; or an array [H, W] or [H, W, C]: bool, uint8, uint16, or floating in
            0 to 1.
        rule: which pixels are the hole; by default those brighter than 127.
        max_pixels: maximum height times width of a file.
        fields: what precedes ``polarity``, ``threshold`` and ``channel`` where the caller sets
            them, for messages; None if the caller cannot set them.

    Returns:
        bool [H, W], True in the hole; it has pixels of both kinds.

    Raises:
        ImageError: if the file is not accepted, the array has another type or shape or is empty,
            the mask marks no or all pixels, or its transparency has no known form; a uint8 array
            with only 0 and 1 is refused, as both would be dark.
    """
    return read_mask_form(mask, rule, max_pixels=max_pixels, fields=fields)[0]


def read_mask_form(
    mask: bytes | NDArray[Any],
    rule: MaskRule | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    fields: str | None = "mask_",
) -> tuple[Hole, MaskForm]:
    """Read a mask as :func:`read_mask` does, and return what marks the hole in it as well."""
    rule = rule or MaskRule()
    if isinstance(mask, bytes):
        pixels = codec.decode(mask, max_pixels, "mask", decode_levels).pixels
    else:
        pixels = _array_levels(mask if mask.ndim == 3 else mask[..., None], rule)
    alpha = _alpha(pixels)
    if rule.channel == "auto" and alpha is not None and _varies(alpha):
        found = layer_hole(pixels, rule)
        if found is None:
            raise ImageError("bad_request", _which_form(pixels, rule, fields))
        return found
    hole = _hole(pixels, rule, fields)
    if not hole.any() or hole.all():
        raise _one_sided(pixels, rule, fields, full=bool(hole.any()))
    return hole, _form(rule)


def read_opacity(image: bytes, max_pixels: int = MAX_PIXELS) -> Pixels | None:
    """Return the opacity of an image's pixels, uint8 [H, W], from a file of any format.

    Returns:
        0 where it is transparent; None if the file has no transparency.

    Raises:
        ImageError: if the file is not accepted.
    """
    return codec.decode(image, max_pixels, "image", decode_levels).alpha


def _hole(pixels: NDArray[Any], rule: MaskRule, fields: str | None = None) -> Hole:
    """Return the pixels on the rule's side of its threshold, bool [H, W]."""
    bright = _channel(pixels, rule, fields) > rule.threshold
    return bright if rule.polarity == "white" else ~bright


def _form(rule: MaskRule) -> MaskForm:
    if rule.channel == "alpha":
        return "opaque" if rule.polarity == "white" else "transparent"
    return "brightness" if rule.channel == "auto" else rule.channel


def _channel(pixels: NDArray[Any], rule: MaskRule, fields: str | None = None) -> NDArray[Any]:
    """Return the levels [H, W] of the rule's channel."""
    coloured = pixels.shape[2] >= 3
    if rule.channel == "alpha":
        alpha = _alpha(pixels)
        if alpha is None:
            cure = _other_channel(pixels, rule, fields)
            raise ImageError(
                "bad_request",
                "the mask has no transparency to read: give one with transparent pixels"
                + (f", or {cure}" if cure else ""),
            )
        return alpha
    if rule.channel in ("red", "green", "blue"):
        at = ("red", "green", "blue").index(rule.channel)
        return pixels[..., at if coloured else 0]
    return brightness(pixels)


def _alpha(pixels: NDArray[Any]) -> NDArray[Any] | None:
    return pixels[..., -1] if pixels.shape[2] in (2, 4) else None


def _varies(levels: NDArray[Any]) -> bool:
    return bool(levels.min() != levels.max())


def _which_form(pixels: NDArray[Any], rule: MaskRule, fields: str | None) -> str:
    """Return the sentence on transparency of no known form, with fields that decide."""
    sentence = (
        "the mask has transparent pixels, and its colours and its transparency do not show which "
        "pixels are the hole"
    )
    if fields is None:
        return f"{sentence}: send a mask without transparency, white in the hole"
    level = _threshold(pixels[..., -1], rule)
    at = f" and {fields}threshold={level}" if level != rule.threshold else ""
    cures = [
        f"{fields}channel=alpha and {fields}polarity=white{at} if opaque pixels are the hole",
        f"{fields}channel=alpha and {fields}polarity=black{at} if transparent ones are",
    ]
    hole = _hole(pixels, rule)
    if hole.any() and not hole.all():
        cures.append(f"{fields}channel=brightness to ignore transparency")
    return f"{sentence}: give {', '.join(cures[:-1])}, or {cures[-1]}"


def _threshold(levels: NDArray[Any], rule: MaskRule) -> int:
    """Return the rule's threshold if it separates the levels, or the middle of them."""
    low, high = int(levels.min()), int(levels.max())
    return rule.threshold if low <= rule.threshold < high else (low + high) // 2


def _other_channel(pixels: NDArray[Any], rule: MaskRule, fields: str | None) -> str:
    """Return fields that read a hole from brightness or transparency; empty if none do."""
    for channel in ("brightness", "alpha"):
        other = replace(rule, channel=channel)
        usable = channel != rule.channel and (channel != "alpha" or _alpha(pixels) is not None)
        if fields is None or not usable:
            continue
        levels = _channel(pixels, other)
        if _varies(levels):
            level = _threshold(levels, rule)
            at = f" and {fields}threshold={level}" if level != rule.threshold else ""
            return f"give {fields}channel={channel}{at}"
    return ""


def _one_sided(
    pixels: NDArray[Any], rule: MaskRule, fields: str | None, *, full: bool
) -> ImageError:
    """Return the error of a hole that is empty or covers everything, with the levels there are."""
    levels = _channel(pixels, rule)
    low, high = int(levels.min()), int(levels.max())
    what = {"alpha": "more opaque", "auto": "brighter", "brightness": "brighter"}
    side = f"{what.get(rule.channel, f'more {rule.channel}')} than {rule.threshold}"
    found = f"its levels are {low} to {high}" if high > low else f"all are {low}"
    every = "every" if full == (rule.polarity == "white") else "no"
    words = ("opaque", "transparent") if rule.channel == "alpha" else ("white", "black")
    cure = f"a mask has pixels of both kinds, {words[rule.polarity == 'black']} in the hole"
    if high > low and fields is not None:
        better = f"={low}" if high == low + 1 else f" from {low} to {high - 1}"
        cure = f"to separate them give {fields}threshold{better}"
    elif other := _other_channel(pixels, rule, fields):
        cure = other
    reason = f"{every} pixel is {side} ({found}); {cure}"
    if full:
        return ImageError("full_mask", f"the whole image is marked as hole: {reason}")
    return ImageError("empty_mask", f"nothing is marked as hole: {reason}")


def _array_levels(mask: NDArray[Any], rule: MaskRule) -> NDArray[Any]:
    """Return the levels 0 to 255 of an array [H, W, C]."""
    if mask.ndim != 3 or mask.shape[2] not in (1, 2, 3, 4) or not mask.size:
        raise ImageError("bad_request", f"a mask is [H, W] or [H, W, C], not {mask.shape}")
    if mask.dtype == np.bool_:
        return mask * np.uint8(255)
    if is_uint16(mask):
        mask = higher_bits(mask)
    if mask.dtype == np.uint8:
        if mask.max() == 1 and mask.min() == 0 and rule.threshold > 0:
            raise ImageError(
                "bad_request", "the mask's values are 0 and 1: give mask.astype(bool), or 0 and 255"
            )
        return mask
    if mask.dtype.kind != "f":
        raise ImageError(
            "bad_request",
            f"the mask is {mask.dtype}: give bool, uint8, uint16, or floating in 0 to 1",
        )
    if not (mask.min() >= 0 and mask.max() <= 1):  # also refuses NaN
        raise ImageError(
            "bad_request",
            f"the mask's values are {mask.min():g} to {mask.max():g}: floating masks are in 0 to 1",
        )
    return np.rint(mask.astype(np.float64) * 255)


def higher_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the higher 8 of 16 bits, or the lower 8 if no value needs more."""
    values = values if values.max() <= 255 else values >> 8
    return values.clip(0, 255).astype(np.uint8)


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
            correct_transparency(opened, data)
            upright = turn_upright(opened)
            if upright.mode.startswith("I"):
                pixels = higher_bits(np.asarray(upright))
            else:
                pixels = np.asarray(codec.plain(upright))
            if header.deep and header.format == "PNG" and "transparency" in opened.info:
                colours = pixels.reshape(*pixels.shape[:2], -1)[..., :3]
                pixels = np.dstack([colours, deep_opacity(data, header)])
    except DECODE_ERRORS as error:
        raise RejectedError(f"cannot be decoded: {first_line_of(error)}") from error
    return pixels.reshape(*pixels.shape[:2], -1)
