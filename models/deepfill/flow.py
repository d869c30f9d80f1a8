"""The image of an attention: for each place the direction in which it looks, as a colour."""

import torch
from torch import Tensor

SEGMENTS = ((0, 1, 15), (1, 0, 6), (1, 2, 4), (2, 1, 11), (2, 0, 13), (0, 2, 6))
"""Middlebury's wheel: from each primary colour to the next, in so many hues. A segment is the
channel that is full, the one that rises or, every second time, falls, and their number."""


def attention_flow(attended: Tensor, cell_px: int = 8) -> Tensor:
    """Colour each place by the offset to the one it looks at most; white is itself.

    The hue is the direction and the saturation the distance, relative to the greatest in the
    batch so far: a sample's colours depend on those before it, as released.

    Args:
        attended: flat indices [B, h, w], as a generator's ``most_attended`` returns them.
        cell_px: side of the square a place becomes; 8 gives the size of the image.

    Returns:
        [B, 3, h * cell_px, w * cell_px] float32 in [-1, 1].
    """
    _, height, width = attended.shape
    rows = torch.arange(height, device=attended.device)[:, None]
    columns = torch.arange(width, device=attended.device)
    down = (attended.div(width, rounding_mode="floor") - rows).double()
    right = (attended % width - columns).double()
    distance = (down.square() + right.square()).sqrt()
    greatest = distance.flatten(1).amax(1).cummax(0).values[:, None, None]
    scale = greatest + torch.finfo(torch.float64).eps
    levels = (255 * wheel_colours(down / scale, right / scale)).floor()
    image = (levels / 127.5 - 1.0).float().permute(0, 3, 1, 2)
    return image.repeat_interleave(cell_px, 2).repeat_interleave(cell_px, 3)


def wheel_colours(down: Tensor, right: Tensor) -> Tensor:
    """Return the colours [..., 3] in [0, 1] of offsets, float64, of length 1 at most.

    Rows take the place that the horizontal component has in images of optical flow, as
    released.
    """
    wheel = colour_wheel().to(down.device)
    hues = wheel.shape[0]
    turn = (torch.atan2(-right, -down) / torch.pi + 1.0) / 2.0 * (hues - 1)
    first = turn.floor().long().clamp_max(hues - 1)
    share = (turn - first)[..., None]
    colours = (1.0 - share) * wheel[first] + share * wheel[(first + 1) % hues]
    distance = (down.square() + right.square()).sqrt()[..., None]
    # Rounding may push the farthest offset just beyond the wheel, which means darker there.
    return torch.where(distance <= 1.0, 1.0 - distance * (1.0 - colours), 0.75 * colours)


def colour_wheel() -> Tensor:
    """Return the 55 hues, [55, 3] float64 in [0, 1], from red over yellow, green, cyan, blue."""
    wheel = torch.zeros(sum(count for *_, count in SEGMENTS), 3, dtype=torch.float64)
    start = 0
    for number, (full, changing, count) in enumerate(SEGMENTS):
        ramp = torch.arange(count).mul(255).div(count, rounding_mode="floor").double()
        wheel[start : start + count, full] = 255.0
        wheel[start : start + count, changing] = 255.0 - ramp if number % 2 else ramp
        start += count
    return wheel / 255.0
