"""PEN-Net's losses: L1 of the pyramid and of the output, and adversarial."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.layers import at_least_float32
from infill.models.losses import (
    detached,
    frozen,
    hinge_discriminator,
    hinge_generator,
    non_saturating_discriminator,
    non_saturating_generator,
)
from infill.models.masking import paste
from infill.models.pennet.config import PENNetConfig
from infill.models.pennet.networks import Discriminator, Generator, Prediction

SMALLEST_SHARE = 1e-6
"""Minimum count of hole or known pixels, so that a batch without either has a loss of 0."""


def alone(network: nn.Module) -> nn.Module:
    """Prepare a network for one device: return it as it is."""
    return network


class PENNetObjective(Objective):
    """One discriminator step, then one generator step against the updated discriminator."""

    def __init__(self, config: PENNetConfig, prepare: Prepare = alone) -> None:
        """Build both networks and their optimizers.

        Args:
            config: the paper's numbers.
            prepare: wraps each trained network and places it on its device.
        """
        self.config = config
        self.networks = {"generator": Generator(config), "discriminator": Discriminator(config)}
        self.prepared = {role: prepare(network) for role, network in self.networks.items()}
        self.build_optimizers(config)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the discriminator, then the generator (Eq. 7 to 10).

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "discriminator", "pyramid", "hole", "known" and "adversarial", weighted.
        """
        prediction: Prediction = self.prepared["generator"](batch.image, batch.mask)
        composite = paste(prediction.final, batch.image, batch.mask)

        discriminator_losses = self.discriminator_losses(batch.image, composite.detach())
        self.update("discriminator", discriminator_losses)

        generator_losses = self.generator_losses(batch, prediction, composite)
        self.update("generator", generator_losses)
        return detached({**discriminator_losses, **generator_losses})

    def discriminator_losses(self, image: Tensor, composite: Tensor) -> dict[str, Tensor]:
        """Discriminate originals from composites, in one pass (Eq. 8, halved as released)."""
        logits = self.prepared["discriminator"](torch.cat([image, composite]))
        real, fake = logits.chunk(2)
        self.log_accuracy("discriminator", real, fake)
        return {"discriminator": DISCRIMINATOR_LOSSES[self.config.adversarial](real, fake)}

    def generator_losses(
        self, batch: Batch, prediction: Prediction, composite: Tensor
    ) -> dict[str, Tensor]:
        """Match the original at every size, and pass for one (Eq. 6, 9 and 10)."""
        config = self.config
        with frozen(self.networks["discriminator"]) as discriminator:
            fake = discriminator(composite)
        adversarial = GENERATOR_LOSSES[config.adversarial](fake)
        hole, known = batch.mask, 1.0 - batch.mask
        pyramid = prediction.pyramid
        if config.pyramid_has_final:
            pyramid = (*pyramid, prediction.final)
        return {
            "pyramid": config.pyramid_weight * pyramid_l1(pyramid, batch.image),
            "hole": config.hole_weight * pooled_l1(prediction.final, batch.image, hole),
            "known": config.known_weight * pooled_l1(prediction.final, batch.image, known),
            "adversarial": config.adversarial_weight * adversarial,
        }


def pyramid_l1(pyramid: tuple[Tensor, ...], image: Tensor) -> Tensor:
    """Return the sum over levels of mean(|output - image resized|), holes and all (Eq. 6).

    Args:
        pyramid: outputs [B, 3, h, w] of any sizes.
        image: [B, 3, H, W]; resized bilinearly, corners on corners, without smoothing.
    """
    terms = [
        functional.l1_loss(
            at_least_float32(output),
            functional.interpolate(image, output.shape[2:], mode="bilinear", align_corners=True),
        )
        for output in pyramid
    ]
    return torch.stack(terms).sum()


def pooled_l1(prediction: Tensor, image: Tensor, region: Tensor) -> Tensor:
    """Return mean(|prediction - image| * region) / mean(region), pooled over the batch.

    A sample with a larger region weighs more (released). Workers pool each over its own share.

    Args:
        prediction: [B, 3, H, W].
        image: [B, 3, H, W].
        region: [B, 1, H, W], 1 where errors count.
    """
    difference = (at_least_float32(prediction) - image).abs() * region
    return difference.mean() / region.mean().clamp_min(SMALLEST_SHARE)


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return half of mean((D - 1)^2) + mean(D^2), D being the sigmoid of logits (released)."""
    real, fake = at_least_float32(real).sigmoid(), at_least_float32(fake).sigmoid()
    return 0.5 * ((real - 1.0).square().mean() + fake.square().mean())


def least_squares_generator(fake: Tensor) -> Tensor:
    """Return mean((D - 1)^2), D being the sigmoid of logits (released)."""
    return (at_least_float32(fake).sigmoid() - 1.0).square().mean()


DISCRIMINATOR_LOSSES = {
    "hinge": hinge_discriminator,
    "nsgan": non_saturating_discriminator,
    "lsgan": least_squares_discriminator,
}
GENERATOR_LOSSES = {
    "hinge": hinge_generator,
    "nsgan": non_saturating_generator,
    "lsgan": least_squares_generator,
}
