"""DeepGIN's images: coarse, small, final (Fig. 2)."""

import torch
from torch import Tensor

from infill.models.deepgin.networks import Generator


@torch.no_grad()
def intermediate_results(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the coarse image, the small one that corrects, and the last.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    prediction = generator(image, mask)
    shown = {"coarse": as_picture(prediction.coarse)}
    if prediction.small is not None:
        shown["low resolution"] = as_picture(prediction.small)
    return shown | {"final": prediction.final.float()}


def as_picture(colours: Tensor) -> Tensor:
    """Bring colours around [0, 1] to [-1, 1]."""
    return (colours.float() * 2.0 - 1.0).clamp(-1.0, 1.0)
