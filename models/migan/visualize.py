"""MI-GAN's images: what each size adds."""

import torch
from torch import Tensor

from infill.models.migan.networks import Generator


@torch.no_grad()
def intermediate_results(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the colours that every size of the decoder adds, coarse to fine, and their sum.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    prediction = generator(image, mask)
    shown = {f"{c.shape[-1]} px": c.float().clamp(-1.0, 1.0) for c in prediction.colours}
    return shown | {"final": prediction.final.float()}
