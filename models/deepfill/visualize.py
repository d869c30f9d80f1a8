"""DeepFill's images: the coarse one, and where every place looks, as colours (Fig. 4)."""

from typing import Protocol

import torch
from torch import Tensor, nn

from infill.models.deepfill.flow import attention_flow


class Attending(Protocol):
    """A generator of two stages that says where it looks: version 1 or 2."""

    refine: nn.Module

    def __call__(self, image: Tensor, mask: Tensor) -> "TwoPictures":
        """Predict both images."""
        ...

    def most_attended(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return each place's favourite, [B, H / 8, W / 8]."""
        ...


class TwoPictures(Protocol):
    """The image that shows it."""

    final: Tensor
    coarse: Tensor


@torch.no_grad()
def intermediate_results(generator: Attending, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the coarse image, the flow of attention and the final image.

    In the flow the hue is the direction in which a place looks, the saturation how far.

    Args:
        generator: in evaluation mode.
        image: [1, 3, H, W] in [-1, 1].
        mask: [1, 1, H, W], 1 in the hole.
    """
    prediction = generator(image, mask)
    shown = {"coarse": prediction.coarse.float()}
    if getattr(generator.refine, "copies", False):
        shown["attention flow"] = attention_flow(generator.most_attended(image, mask))
    return shown | {"final": prediction.final.float()}
