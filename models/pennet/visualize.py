"""PEN-Net's images: outputs (Fig. 7), attention of the hole's centre, feature maps (Fig. 8)."""

import torch
from torch import Tensor

from infill.models.pennet.networks import Generator
from infill.models.visualize import heat, middle_of


@torch.no_grad()
def intermediate_results(generator: Generator, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the pyramid, coarsest first, attention and features of each level, and the image.

    Attention is that of one place, the hole's middle: white where most of it comes from. Features
    are the mean size of each place's, of the map that the decoder gets.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    prediction = generator(image, mask)
    shown = {f"pyramid, {level.shape[-2]} px": level.float() for level in prediction.pyramid}
    down, right = middle_of(mask)
    for level, weights in generator.attention(image, mask).items():
        height, width = weights.shape[1:3]
        looked = weights[0, int(down * height), int(right * width)]
        shown[f"attention, level {level}"] = heat(looked)
    for level, features in generator.filled(image, mask).items():
        shown[f"features, level {level}"] = heat(features[0].abs().mean(dim=0))
    return shown | {"final": prediction.final.float()}
