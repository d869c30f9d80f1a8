"""Pixels to a device and back: 8 bits cross the bus, and the device converts them.

On CUDA, copies go through pinned memory on streams of their own, one for each direction, so that
the copies of one batch run while another is computed.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from infill.pipeline.images import ByteHole, Pixels
from infill.pipeline.images.tensors import to_levels, to_pixels, to_tensor, values_of


def upload(images: Pixels, holes: ByteHole, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Return [B, 3, H, W] in [-1, 1] and [B, 1, H, W], 1 in the hole, on a device.

    Args:
        images: uint8 [B, H, W, 3].
        holes: uint8 [B, H, W], 1 in the hole.
        device: the device.
    """
    target = torch.device(device)
    if target.type == "cpu":
        return to_tensor(images), torch.from_numpy(holes)[:, None].float()
    levels, mask = _copied((torch.from_numpy(images), torch.from_numpy(holes)), target)
    return values_of(levels), mask[:, None].float()


def download(image: Tensor) -> Pixels:
    """Return [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3]; as :func:`to_pixels`, to the bit."""
    if image.device.type != "cuda":
        return to_pixels(image)
    levels = to_levels(image)
    copies = _stream(levels.device, "download")
    copies.wait_stream(torch.cuda.current_stream(levels.device))
    with torch.cuda.stream(copies):
        pinned = torch.empty(levels.shape, dtype=torch.uint8, pin_memory=True)
        pinned.copy_(levels, non_blocking=True)
        levels.record_stream(copies)
        done = copies.record_event()
    done.synchronize()
    return np.array(pinned.numpy())


def _copied(tensors: tuple[Tensor, ...], target: torch.device) -> list[Tensor]:
    """Return tensors of the CPU on a device, for the current stream."""
    if target.type != "cuda":
        return [tensor.to(target) for tensor in tensors]
    copies, current = _stream(target, "upload"), torch.cuda.current_stream(target)
    with torch.cuda.stream(copies):
        found = [tensor.pin_memory().to(target, non_blocking=True) for tensor in tensors]
    current.wait_stream(copies)
    for tensor in found:
        tensor.record_stream(current)
    return found


@cache
def _stream(target: torch.device, direction: str) -> torch.cuda.Stream:
    """Return the stream of a direction of copies on a device."""
    return torch.cuda.Stream(target)  # type: ignore[no-untyped-call]
