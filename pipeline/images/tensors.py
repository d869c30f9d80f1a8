"""Convert pixels to the tensors of networks, and back; not imported with the package.

All 256 levels survive the round trip. Only this module of the package needs PyTorch.
"""

from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infill.pipeline.images.arrays import Pixels

Values = NDArray[np.float32]

MODEL_VALUES = (np.arange(256, dtype=np.float32) * 2 - 255) / 255
"""Value in [-1, 1] of each of the 256 levels."""


def to_tensor(pixels: Pixels) -> Tensor:
    """Return 8-bit RGB pixels, [B, H, W, 3] or [H, W, 3], as float32 [B, 3, H, W] in [-1, 1]."""
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    count, height, width, _ = pixels.shape
    image = np.empty((count, 3, height, width), np.float32)
    for one, values in zip(pixels, image, strict=True):
        write_values(np.ascontiguousarray(one), values)
    return torch.from_numpy(image)


def values_of(levels: Tensor) -> Tensor:
    """Return levels, uint8 [B, H, W, 3], as float32 [B, 3, H, W] in [-1, 1], on their device.

    The values are those of :func:`to_tensor`, to the bit: a GPU's own division rounds differently.
    """
    planes = levels.permute(0, 3, 1, 2).contiguous()
    return _table(levels.device).index_select(0, planes.flatten().int()).view(planes.shape)


@cache
def _table(target: torch.device) -> Tensor:
    """Return the value of each level, float32 [256], on a device; copied there once."""
    return torch.from_numpy(MODEL_VALUES).to(target)


def write_values(pixels: Pixels, values: Values) -> None:
    """Write [H, W, 3] 8-bit pixels into [3, H, W] values in [-1, 1]."""
    for channel, out in zip(cv2.split(pixels), values, strict=True):
        cv2.LUT(channel, MODEL_VALUES, out)


def to_pixels(image: Tensor) -> Pixels:
    """Return [B, 3, H, W] in [-1, 1] as 8-bit RGB [B, H, W, 3]: clamped, rounded to nearest.

    All 256 levels survive :func:`to_tensor` and back.
    """
    return to_levels(image).cpu().numpy()


def to_levels(image: Tensor) -> Tensor:
    """Return :func:`to_pixels` as a tensor on the image's device, so that bytes are copied."""
    levels = (image.detach().float() * 127.5 + 127.5).clamp(0, 255).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
