"""Images and masks of callers: conversion to the network's input, and results of the same kind.

Known pixels never pass through the network's 8 bits: a result is a copy of the input in which only
the hole is overwritten.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infill.pipeline import storage
from infill.pipeline.errors import ImageError, UserError
from infill.pipeline.images import (
    DecodedImage,
    Hole,
    MaskRule,
    PilImage,
    Pixels,
    decode,
    decoded_image,
    fill_in,
    grey,
    read_mask,
    to_pillow,
)
from infill.pipeline.images.arrays import is_uint16
from infill.pipeline.images.codec import is_16_bits, pillow_of

MAX_PIXELS = 2**28
"""Maximum height times width of an image file."""
CHANNELS = (1, 2, 3, 4)
"""Numbers of channels: grey, grey and alpha, RGB, RGB and alpha."""


@dataclass(frozen=True)
class Input:
    """One image."""

    rgb: Pixels
    """Input of the network, uint8 [H, W, 3]."""
    result: Callable[[Pixels, Hole], Any]
    """Returns a copy of the image, of the same kind, with a prediction, uint8 [H, W, 3], in the
    hole."""


def read_input(image: Any) -> Input:
    """Read an image of any kind that :class:`Inpainter` accepts.

    Raises:
        ImageError: if its shape, type or values are not accepted.
        TypeError: if it is not an image.
    """
    if isinstance(image, str | os.PathLike):
        return _of_decoded(_read_image_file(image), to_pillow)
    if isinstance(image, PilImage):
        return (
            _of_16_bits(image)
            if is_16_bits(image)
            else _of_decoded(decoded_image(image), to_pillow)
        )
    if isinstance(image, Tensor):
        return _of_tensor(image)
    if isinstance(image, np.ndarray):
        return _of_array(np.asarray(image))
    raise TypeError(
        f"an image is a PIL image, a NumPy array, a tensor or a path, not {type(image).__name__}"
    )


def read_hole(mask: Any, rule: MaskRule | None = None) -> Hole:
    """Read a mask of any kind that :class:`Inpainter` accepts: bool [H, W].

    Args:
        mask: the mask.
        rule: which of its pixels are the hole; by default those brighter than 127.

    Raises:
        ImageError: if its shape, type or values are not accepted, or it marks no or all pixels.
        TypeError: if it is not a mask.
    """
    if isinstance(mask, str | os.PathLike):
        return _read_hole_file(mask, rule)
    if isinstance(mask, PilImage):
        levels = np.asarray(mask) if is_16_bits(mask) else decoded_image(mask, "mask").pixels
        return read_mask(levels, rule, fields="masks.")
    if isinstance(mask, Tensor):
        values = _as_array(mask)
        if values.ndim not in (2, 3):
            raise ImageError(
                "bad_request", f"a mask's tensor is [H, W] or [C, H, W], not {list(mask.shape)}"
            )
        return read_mask(
            np.moveaxis(values, 0, -1) if values.ndim == 3 else values, rule, fields="masks."
        )
    if isinstance(mask, np.ndarray):
        return read_mask(np.asarray(mask), rule, fields="masks.")
    raise TypeError(
        f"a mask is a PIL image, a NumPy array, a tensor or a path, not {type(mask).__name__}"
    )


def _read_image_file(image: str | os.PathLike[str]) -> DecodedImage:
    data = _file(image, "image")
    try:
        return decode(data, MAX_PIXELS)
    except ImageError as error:
        raise ImageError(error.code, f"{os.fspath(image)}: {error}") from error


def _read_hole_file(mask: str | os.PathLike[str], rule: MaskRule | None) -> Hole:
    data = _file(mask, "mask")
    try:
        return read_mask(data, rule, max_pixels=MAX_PIXELS, fields="masks.")
    except ImageError as error:
        raise ImageError(error.code, f"{os.fspath(mask)}: {error}") from error


def _file(path: str | os.PathLike[str], what: str) -> bytes:
    location = os.fspath(path)
    if not location:
        raise UserError(f"the path of the {what} is empty")
    try:
        return storage.read(location)
    except FileNotFoundError as error:
        raise UserError(f"there is no {what} {location}") from error
    except IsADirectoryError as error:
        raise UserError(
            f"{location} is a folder; give one {what}, or fill all of it by "
            "`python jobs/batch_inpaint.py`"
        ) from error


def _of_decoded(image: DecodedImage, finish: Callable[[DecodedImage], Any]) -> Input:
    return Input(
        image.rgb,
        lambda prediction, hole: finish(fill_in(image, hole, prediction)),
    )


def _of_16_bits(image: PilImage) -> Input:
    """Take a grey image of 16 bits; profile, EXIF and resolution stay."""
    array = _of_array(np.asarray(image))

    def result(prediction: Pixels, hole: Hole) -> PilImage:
        filled = pillow_of(array.result(prediction, hole))
        filled.info.update(image.info)
        return filled

    return Input(array.rgb, result)


def _of_array(array: NDArray[Any]) -> Input:
    """Take [H, W] or [H, W, C]: uint8, uint16, or floating in 0 to 1."""
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in CHANNELS or not pixels.size:
        raise ImageError(
            "bad_request",
            f"an array is [H, W] or [H, W, C], C from 1 to 4, not {array.shape}",
        )
    if array.dtype == np.uint8:
        decoded = DecodedImage(pixels=pixels, format="png", profile=None)
        return _of_decoded(decoded, lambda filled: filled.pixels.reshape(array.shape))
    if is_uint16(array):
        return _of_levels(array, pixels, 65535)
    if array.dtype.kind != "f":
        raise ImageError(
            "bad_request", f"the image is {array.dtype}: give uint8, uint16, or floating in 0 to 1"
        )
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # also refuses NaN
        raise ImageError(
            "bad_request",
            f"the image's values are {pixels.min():g} to {pixels.max():g}: floating images are in "
            "0 to 1; convert [-1, 1] by (image + 1) / 2",
        )
    return _of_levels(array, pixels, 1)


def _of_levels(array: NDArray[Any], pixels: NDArray[Any], white: int) -> Input:
    """Take an array of other values than bytes, whose white is a value; pixels are [H, W, C]."""
    levels = np.rint(pixels.astype(np.float64) / white * 255).astype(np.uint8)
    seen = DecodedImage(pixels=levels, format="png", profile=None).rgb
    return Input(seen, lambda prediction, hole: _overwritten(array, prediction, hole, white))


def _overwritten(array: NDArray[Any], prediction: Pixels, hole: Hole, white: int) -> NDArray[Any]:
    """Return a copy of an array with the opaque prediction in the hole."""
    result = array.copy()
    pixels = result[..., None] if result.ndim == 2 else result
    colours = 3 if pixels.shape[2] >= 3 else 1
    inside = prediction[hole]
    levels = inside if colours == 3 else grey(inside)[:, None]
    pixels[hole, :colours] = levels / 255 * white  # of uint16 a multiple of 257
    pixels[hole, colours:] = white
    return result


def _of_tensor(tensor: Tensor) -> Input:
    """Take [C, H, W] or [H, W]: uint8, uint16, or floating in 0 to 1."""
    values = _as_array(tensor)
    if values.ndim == 3 and values.shape[0] not in CHANNELS:
        raise ImageError(
            "bad_request", f"a tensor is [C, H, W] with 1 to 4 channels, not {list(tensor.shape)}"
        )
    array = _of_array(np.moveaxis(values, 0, -1) if values.ndim == 3 else values)

    def result(prediction: Pixels, hole: Hole) -> Tensor:
        found = array.result(prediction, hole)
        found = np.moveaxis(found, -1, 0) if found.ndim == 3 else found
        back = torch.from_numpy(np.ascontiguousarray(found))
        return back.to(device=tensor.device, dtype=tensor.dtype)

    return Input(array.rgb, result)


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's values; those of half precision as float32, which holds them exactly."""
    plain = tensor.detach().cpu()
    array: NDArray[Any] = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array


def unbatched(images: Any, masks: Any) -> tuple[list[Any], list[Any], Callable[[list[Any]], Any]]:
    """Take a batch apart, and return what puts results together as the images were.

    A batch is a list, an array [B, H, W, C] or a tensor [B, C, H, W]; anything else is a single
    image.

    Raises:
        ImageError: if the numbers of masks and images differ.
    """
    if isinstance(images, list | tuple):
        return list(images), _each(masks, len(images)), lambda results: results
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        stack: Callable[[list[Any]], Any] = torch.stack if isinstance(images, Tensor) else np.stack
        join = stack if len(images) else lambda results: images[:]
        return list(images), _each(masks, len(images)), join
    return [images], [masks], lambda results: results[0]


def _each(masks: Any, count: int) -> list[Any]:
    if not isinstance(masks, Sequence | np.ndarray | Tensor) or isinstance(masks, str):
        raise ImageError("bad_request", f"{count} images need a list of {count} masks")
    if isinstance(masks, np.ndarray | Tensor) and masks.ndim < 3:
        raise ImageError(
            "bad_request",
            f"{count} images need a list or batch of {count} masks, not one of {list(masks.shape)}",
        )
    if len(masks) != count:
        raise ImageError("bad_request", f"there are {count} images and {len(masks)} masks")
    return list(masks)
