"""PEN-Net's images: every level's output (Fig. 7), and the attention of the hole's centre."""

import torch
from torch import Tensor

from infill.models.pennet.networks import Generator
from infill.models.visualize import heat, middle_of


@torch.no_grad()
def pictures(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the pyramid, coarsest first, the attention of each level, and the picture.

    Attention is that of one place, the hole's middle: white where most of it comes from.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    prediction = generator(image, mask)
    shown = {f"pyramid, {picture.shape[-2]} px": picture.float() for picture in prediction.pyramid}
    down, right = middle_of(mask)
    for level, weights in generator.attention(image, mask).items():
        height, width = weights.shape[1:3]
        looked = weights[0, int(down * height), int(right * width)]
        shown[f"attention, level {level}"] = heat(looked)
    return shown | {"final": prediction.final.float()}
