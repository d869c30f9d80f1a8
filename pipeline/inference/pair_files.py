"""From an image file and a mask file to tiles, and from predictions to the composite file."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from infill.pipeline.errors import ImageError
from infill.pipeline.images import (
    DecodedImage,
    Format,
    Hole,
    MaskForm,
    MaskRule,
    Pixels,
    decode,
    encode,
    fill_in,
    read_mask_form,
    read_opacity,
)
from infill.pipeline.inference import tiling, tiling_plan
from infill.pipeline.inference.config import Mode, TilingConfig

MAX_SIDE_PX: dict[Format, int] = {"webp": 16_383, "jpeg": 65_500}
"""Maximum height and width of formats that have one."""


@dataclass(frozen=True, kw_only=True)
class InpaintOptions:
    """How to inpaint an image."""

    model: str = ""
    mode: Mode = "auto"
    mask_rule: MaskRule = field(default_factory=MaskRule)
    mask_fields: str | None = "mask_"
    """What precedes the names of the mask rule's fields, for messages; None if the caller cannot
    set them."""
    output_format: Format = "png"
    background: bool = False
    """Whether interactive requests go before this one in a service."""
    quality: int | None = None
    """Quality of JPEG and WebP, 0 to 99, with losses; None or 100 is the best."""
    other_formats: tuple[Format, ...] = ()
    """Formats to use instead, in order, if ``output_format`` cannot store the image."""
    negotiated: bool = False
    """Whether an Accept header names the formats, and not a field."""
    samples: int = 1
    """Number of results; more than one only from probabilistic models."""
    seed: int | None = None
    """Random seed; None means the most likely result, or seed 0 for several results."""


def read_pair(
    image: bytes,
    mask: bytes | None,
    options: InpaintOptions,
    max_pixels: int,
    tiling: TilingConfig,
) -> tuple[DecodedImage, Hole, tiling.Layout]:
    """Decode an image and its mask, and plan the tiles.

    Args:
        image: the file, of any format that is read.
        mask: a file of the same size; None if the transparency of the image marks the hole.
        options: of the request.
        max_pixels: maximum height times width.
        tiling: the tile sizes that the network accepts.

    Returns:
        The image, the hole as bool [H, W], and the layout of the tiles.

    Raises:
        ImageError: if a file is not accepted, the sizes differ, or the mask marks no or all pixels.
    """
    decoded, hole, _ = decode_pair(image, mask, options, max_pixels)
    return decoded, hole, plan_pair(hole, options, tiling)


def decode_pair(
    image: bytes, mask: bytes | None, options: InpaintOptions, max_pixels: int
) -> tuple[DecodedImage, Hole, MaskForm]:
    """Decode an image and its mask, as :func:`read_pair` does, and return what marks the hole.

    Raises:
        ImageError: if a file is not accepted, the sizes differ, or the mask marks no or all pixels.
    """
    decoded = decode(image, max_pixels)
    form: MaskForm
    if mask is None:
        hole, form = _own_hole(decoded, image, max_pixels), "transparent"
    else:
        hole, form = read_mask_form(
            mask, options.mask_rule, max_pixels=max_pixels, fields=options.mask_fields
        )
    require_fitting(hole, decoded.pixels.shape[:2])
    return decoded, hole, form


def plan_pair(hole: Hole, options: InpaintOptions, tiling: TilingConfig) -> tiling.Layout:
    """Plan the tiles of a hole, bool [H, W].

    Raises:
        ImageError: if the hole does not suit the mode.
    """
    try:
        return tiling_plan.plan_tiles(hole, tiling, options.mode)
    except ValueError as error:
        raise ImageError("bad_request", str(error)) from error


def _own_hole(decoded: DecodedImage, image: bytes, max_pixels: int) -> Hole:
    """Return the pixels that are not opaque: a soft eraser would leave a seam otherwise."""
    if decoded.alpha is not None:
        hole: Hole = decoded.alpha < 255
    else:  # A composite of its format has none, as of 16 bits or of an animation.
        hole = _transparent(image, max_pixels)
    if not hole.any():
        raise ImageError(
            "empty_mask", "nothing is marked as hole: every pixel of the image is opaque"
        )
    if hole.all():
        raise ImageError("full_mask", "the whole image is marked as hole: no pixel is opaque")
    return hole


def _transparent(image: bytes, max_pixels: int) -> Hole:
    """Return the pixels of a file that are not opaque."""
    opacity = read_opacity(image, max_pixels)
    if opacity is None:
        raise ImageError("bad_request", "there is no mask: send one, or an image with transparency")
    hole: Hole = opacity < 255
    return hole


def require_fitting(hole: Hole, size: tuple[int, ...]) -> None:
    """Refuse a hole of another size than the image's.

    Args:
        hole: bool [H, W].
        size: height and width of the image.

    Raises:
        ImageError: if they differ.
    """
    if hole.shape != size:
        sizes = [f"{width} × {height}" for height, width in (size, hole.shape)]
        message = f"the image is {sizes[0]}, the mask {sizes[1]}: send a mask of the image's size"
        if hole.shape == size[::-1]:
            message += "; EXIF turns photographs upright, so turn the mask as well"
        raise ImageError("different_sizes", message)


def fitting(
    options: InpaintOptions, size: tuple[int, int], transparent: bool = False
) -> InpaintOptions:
    """Return the options with a format that can store an image.

    Args:
        options: how to inpaint.
        size: height and width.
        transparent: whether the image has transparency, which JPEG does not store.

    Raises:
        ImageError: if no requested format can; its code is "not_acceptable" if an Accept header
            names them.
    """
    for form in (options.output_format, *options.other_formats):
        if not _hindrance(form, size, transparent):
            return replace(options, output_format=form)
    raise ImageError(
        "not_acceptable" if options.negotiated else "bad_request",
        _hindrance(options.output_format, size, transparent),
    )


def _hindrance(form: Format, size: tuple[int, int], transparent: bool) -> str:
    """Return why a format cannot store an image, and what to request; empty if it can."""
    longest, most = max(size), MAX_SIDE_PX.get(form, max(size))
    if longest > most:
        return (
            f"the image is {size[1]} × {size[0]}, and {form} stores at most {most:,} pixels a "
            "side: request png"
        )
    if form == "jpeg" and transparent:
        webp = " or webp" if longest <= MAX_SIDE_PX["webp"] else ""
        return f"this image has transparency, which JPEG cannot store: request png{webp}"
    return ""


def compose(
    decoded: DecodedImage,
    hole: Hole,
    layout: tiling.Layout,
    predictions: Sequence[Pixels],
    options: InpaintOptions,
) -> bytes:
    """Return the composite as a file: the known pixels unchanged, the prediction in the hole."""
    filled = fill_in(decoded, hole, layout.merge_tiles(predictions, hole))
    return encode(filled, options.output_format, options.quality)
