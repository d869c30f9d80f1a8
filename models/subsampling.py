"""Large frames through a network of one size: the strided pieces of DeepGIN.

A frame of a multiple of the network's size is V x U interleaved images: piece (v, u) is rows
v::V and columns u::U. Each is a small image of the whole scene, is completed by itself, and goes
back to where its pixels came from.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from infill.models.config import Subsampling
from infill.models.masking import hide

Fill = Callable[[Tensor, Tensor], Tensor]
"""``fill(image, mask)`` predicts [B, 3, S, S] in [-1, 1] from as large an image and its mask."""


def split(frame: Tensor, down: int, across: int) -> Tensor:
    """Return the pieces of a frame: [1, C, V S, U S] to [V U, C, S, S], row phases first."""
    phases = [(v, u) for v in range(down) for u in range(across)]
    return torch.cat([frame[..., v::down, u::across] for v, u in phases])


def merge(pieces: Tensor, down: int, across: int) -> Tensor:
    """Undo :func:`split`."""
    _, channels, height, width = pieces.shape
    frame = pieces.new_empty(1, channels, height * down, width * across)
    phases = [(v, u) for v in range(down) for u in range(across)]
    for (v, u), piece in zip(phases, pieces, strict=True):
        frame[0, :, v::down, u::across] = piece
    return frame


def fill_in_pieces(
    fill: Fill, image: Tensor, mask: Tensor, how: Subsampling, at_once: int = 8
) -> Tensor:
    """Predict a frame of any size, as DeepGIN's tables "at original size" did.

    The frame is resized to the nearest multiple of ``side_px`` each way, at least one: the image
    bicubic with its hole hidden first, the mask bilinear, any share of hole being hole. The
    pieces' predictions are interleaved and resized to the frame's own size.

    Args:
        fill: predicts pieces.
        image: [1, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
        mask: [1, 1, H, W], 1 in the hole.
        how: ``side_px`` must be given.
        at_once: pieces that ``fill`` is given together.

    Returns:
        The prediction, [1, 3, H, W] float32 in [-1, 1]; known pixels are not put back.
    """
    size = image.shape[-2:]
    down, across = (max(1, round(side / how.side_px)) for side in size)
    working = (down * how.side_px, across * how.side_px)
    known, hole = _resize(hide(image.float(), mask), working), mask.float()
    if working != tuple(size):
        hole = functional.interpolate(hole, working, mode="bilinear") > 0
    seen = split(hide(known, hole), down, across), split(hole.float(), down, across)
    complete = _fill_averaged if how.average else _fill_once
    found = [
        complete(fill, *(frame[start : start + at_once] for frame in seen))
        for start in range(0, down * across, at_once)
    ]
    frame = merge(torch.cat(found), down, across)
    if how.low_pass:
        frame = _resize(_resize(frame, (working[0] // 2, working[1] // 2)), working)
    return _resize(frame, (size[0], size[1])).clamp(-1, 1)


def _resize(frame: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(frame.shape[-2:]) == size:
        return frame
    return functional.interpolate(frame, size, mode="bicubic")


def _fill_once(fill: Fill, image: Tensor, mask: Tensor) -> Tensor:
    return fill(image, mask).float()


def _fill_averaged(fill: Fill, image: Tensor, mask: Tensor) -> Tensor:
    """Average five predictions as the authors' code does: each cut to 8 bits, the mean rounded."""
    total = torch.zeros_like(image)
    for turns in range(4):
        found = fill(*(frame.rot90(turns, (2, 3)) for frame in (image, mask)))
        total += _levels(found.rot90(-turns, (2, 3)))
    total += _levels(fill(image.flip(3), mask.flip(3)).flip(3))
    return (total / 5).round() / 127.5 - 1


def _levels(prediction: Tensor) -> Tensor:
    return ((prediction.float().clamp(-1, 1) + 1) * 127.5).floor()
