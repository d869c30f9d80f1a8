"""The U-Net's loss, in the hole alone, and its training step."""

from torch import Tensor, nn

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.losses import detached
from infill.models.masking import distance_to_known
from infill.models.unet.config import UNetConfig
from infill.models.unet.networks import Generator

DISCOUNTED_PX = 48
"""Pixels further than this from what is known all weigh the same."""


class UNetObjective(Objective):
    """One network and one loss."""

    def __init__(self, config: UNetConfig, prepare: Prepare) -> None:
        """Build the network and its optimizer.

        Args:
            config: widths, loss and learning rate.
            prepare: wraps the network and places it on its device.
        """
        self.config = config
        self.networks: dict[str, nn.Module] = {"generator": Generator(config)}
        self.prepared = prepare(self.generator)
        self.build_optimizers(config)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the generator.

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "hole", weighted.
        """
        predicted = self.prepared(batch.image, batch.mask).final
        loss = discounted_l1(predicted, batch.image, batch.mask, self.config.discount_rate)
        losses = {"hole": self.config.hole_weight * loss}
        self.update("generator", losses)
        return detached(losses)


def discounted_l1(prediction: Tensor, image: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Return the weighted mean of the absolute error in all holes, a scalar.

    Args:
        prediction: [B, 3, H, W] in [-1, 1].
        image: [B, 3, H, W] in [-1, 1].
        mask: [B, 1, H, W], 1 in the hole.
        rate: a pixel n steps from the nearest known one weighs rate^(n - 1).
    """
    weight = mask * rate ** (distance_to_known(mask, DISCOUNTED_PX) - 1.0)
    error = ((prediction - image).abs() * weight).sum()
    return error / (3.0 * weight.sum()).clamp(min=1.0)
