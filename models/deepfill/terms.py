"""The arithmetic of DeepFill's losses: windows, discounts, games and the gradient penalty."""

import torch
from torch import Tensor

from infill.models.layers import at_least_float32
from infill.models.losses import (
    hinge_discriminator,
    hinge_generator,
    non_saturating_discriminator,
    non_saturating_generator,
)

SLOPE_FLOOR = 1e-12
"""Added under the root of the squared slope, whose derivative at zero is infinite."""


def window_corners(mask: Tensor, size_px: int) -> Tensor:
    """Return the top-left corner of each hole's window, [B, 2] int64: row, column.

    The window is centred on the hole's bounding box and pushed inside the frame. The paper's holes
    are boxes shrunk by the same amount on opposite sides, so this is the original box, without
    storing it; it is defined for free-form holes as well. An empty mask has its window in the
    middle of the frame.

    Args:
        mask: [B, 1, H, W], 1 in the hole.
        size_px: side of the square window, at most H and W.
    """
    hole = mask[:, 0] > 0
    corners = []
    for occupied in (hole.any(2), hole.any(1)):
        length = occupied.shape[1]
        first = occupied.int().argmax(1)
        last = length - 1 - occupied.int().flip(1).argmax(1)
        start = (first + last + 1 - size_px).div(2, rounding_mode="floor")
        corners.append(start.clamp(0, length - size_px))
    return torch.stack(corners, 1)


def windows(image: Tensor, corners: Tensor, size_px: int) -> Tensor:
    """Cut one window out of each image of [B, C, H, W]: [B, C, size_px, size_px]."""
    batch, channels, _, width = image.shape
    span = torch.arange(size_px, device=image.device)
    rows = (corners[:, :1] + span).view(batch, 1, size_px, 1)
    columns = (corners[:, 1:] + span).view(batch, 1, 1, size_px)
    lines = image.gather(2, rows.expand(-1, channels, -1, width))
    return lines.gather(3, columns.expand(-1, channels, size_px, -1))


def box_discount(size_px: int, rate: float) -> Tensor:
    """Return the weights of a window, [size_px, size_px]: rate^min(i, S - i, j, S - j).

    Counted from 0, so the first row and column weigh 1 and the last ones ``rate``, as released.
    """
    steps = torch.arange(size_px)
    distance = torch.minimum(steps, size_px - steps)
    powers = rate ** torch.minimum(distance[:, None], distance).double()
    return powers.float()


def mean_over(error: Tensor, region: Tensor) -> Tensor:
    """Return the mean of an error over a region of each image, averaged over images: a scalar.

    Args:
        error: [B, C, H, W].
        region: [B, 1, H, W], 0 or 1; an image without any of it counts as 0.
    """
    area = region.sum((1, 2, 3)).clamp_min(1.0) * error.shape[1]
    return ((error * region).sum((1, 2, 3)) / area).mean()


def critic_loss(gan: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of one critic, without penalty.

    Args:
        gan: "wgan_gp" mean(fake) - mean(real); "hinge", "dcgan" (cross-entropy) or "lsgan"
            (squared distance from 1 and 0), each the mean of its two halves.
        real: scores [B] of originals.
        fake: scores [B] of composites.
    """
    if gan == "wgan_gp":
        return fake.mean() - real.mean()
    if gan == "hinge":
        return hinge_discriminator(real, fake)
    if gan == "dcgan":
        return non_saturating_discriminator(real, fake)
    return 0.5 * ((real - 1.0).square().mean() + fake.square().mean())


def generator_loss(gan: str, fake: Tensor) -> Tensor:
    """Return the generator's loss for one critic, from its scores of composites."""
    if gan == "dcgan":
        return non_saturating_generator(fake)
    if gan == "lsgan":
        return (fake - 1.0).square().mean()
    return hinge_generator(fake)


def blend(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return real + share * (fake - real), a leaf that collects a gradient.

    Args:
        real: [B, 3, H, W].
        fake: the same.
        share: [B], 0 to 1.
    """
    blended = torch.lerp(real, fake, share.view(-1, 1, 1, 1).to(real.dtype))
    return blended.detach().requires_grad_(True)


def masked_gradient_penalty(slope: Tensor, mask: Tensor) -> Tensor:
    """Return mean((|slope inside the hole| - 1)^2), a scalar (Sec. 3).

    Args:
        slope: a critic's gradient by its input, [B, 3, H, W], with a graph.
        mask: [B, 1, H, W], 1 in the hole.
    """
    squares = (at_least_float32(slope).square() * mask).sum((1, 2, 3))
    return ((squares + SLOPE_FLOOR).sqrt() - 1.0).square().mean()
