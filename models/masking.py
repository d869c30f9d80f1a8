"""Masking: hide pixels, paste known pixels back, hole ratio, padding."""

from torch import Tensor
from torch.nn import functional

__all__ = [
    "SMALLEST_SIDE_PX",
    "crop_to",
    "distance_to_known",
    "hide",
    "hole_ratio",
    "pad_to_multiple",
    "paste",
    "whitened",
]

SMALLEST_SIDE_PX = 16
"""Frames are padded to this at least: a network that halves and mirrors needs something to do."""


def hide(image: Tensor, mask: Tensor) -> Tensor:
    """Return the masked image: the image with its hole set to 0.

    Args:
        image: [B, 3, H, W] in [-1, 1].
        mask: [B, 1, H, W], 1 in the hole.
    """
    return image.masked_fill(mask.bool(), 0.0)


def paste(prediction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return the composite: known pixels bit for bit from the image, the hole from the prediction.

    Args:
        prediction: [B, 3, H, W] in [-1, 1].
        image: [B, 3, H, W] in [-1, 1].
        mask: [B, 1, H, W], 1 in the hole, 0 where known.
    """
    return prediction.where(mask.bool(), image)


def hole_ratio(mask: Tensor) -> Tensor:
    """Return the share of each image that is missing: [B], 0 to 1."""
    return mask.float().mean(dim=(1, 2, 3))


def distance_to_known(mask: Tensor, limit: int) -> Tensor:
    """Return for each hole pixel the steps to the nearest known one, diagonals being one step.

    Args:
        mask: [B, 1, H, W], 1 in the hole. Pixels outside the image are not known.
        limit: largest distance that is distinguished.

    Returns:
        [B, 1, H, W], 0 where known, 1 at the hole's rim, up to ``limit``.
    """
    reached = 1.0 - mask
    nearer = reached.clone()
    for _ in range(limit - 1):
        # A pixel beside one that n steps reach is reached in n + 1.
        reached = functional.max_pool2d(reached, 3, stride=1, padding=1)
        nearer += reached
    return limit - nearer


def pad_to_multiple(image: Tensor, mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Pad right and bottom to multiples of ``multiple``: both by reflection.

    The reflected pixels of a hole would be hidden content presented as known, so the mask is
    reflected with the image; where the frame is too small to reflect, both repeat their edge.

    Args:
        image: [B, 3, H, W].
        mask: [B, 1, H, W], 1 in the hole.
        multiple: both sides of the result are a multiple of it, and at least 16 px.

    Returns:
        Image and mask, at least as large as before; the same tensors if nothing was to be added.
    """
    height, width = image.shape[-2:]
    bottom, right = (
        -max(side, SMALLEST_SIDE_PX) % multiple + max(0, SMALLEST_SIDE_PX - side)
        for side in (height, width)
    )
    if not bottom and not right:
        return image, mask
    mode = "reflect" if bottom < height and right < width else "replicate"
    padding = (0, right, 0, bottom)
    return (functional.pad(image, padding, mode=mode), functional.pad(mask, padding, mode=mode))


def crop_to(image: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`pad_to_multiple`: keep the top-left ``height`` × ``width`` pixels."""
    return image[..., :height, :width]


def whitened(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image in [0, 1], white in its hole; its former content is removed."""
    return ((image + 1.0) / 2.0).masked_fill(mask.bool(), 1.0)
