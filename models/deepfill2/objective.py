"""DeepFill v2's losses: L1 of both outputs, and a patch discriminator with a hinge loss."""

import torch
from torch import Tensor

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.deepfill.networks import Prediction
from infill.models.deepfill.objective import alone, divided
from infill.models.deepfill2.config import DeepFill2Config
from infill.models.deepfill2.networks import Discriminator, Generator
from infill.models.layers import at_least_float32
from infill.models.losses import detached, frozen, hinge_discriminator, hinge_generator
from infill.models.masking import paste


class DeepFill2Objective(Objective):
    """Train DeepFill v2: one discriminator step, then one generator step."""

    def __init__(self, config: DeepFill2Config, prepare: Prepare = alone) -> None:
        """Build both networks and their optimizers.

        Args:
            config: the paper's numbers.
            prepare: wraps each trained network and places it on its device.
        """
        self.config = config
        generator, discriminator = Generator(config), Discriminator(config)
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.prepared_generator = prepare(generator)
        self.prepared_discriminator = prepare(discriminator)
        self.build_optimizers(config)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the discriminator on one half of the batch, the generator on the other.

        With ``discriminator_batches`` "shared" both see all of it.

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "discriminator", "coarse", "image" and "adversarial", weighted.

        Raises:
            ValueError: if the samples cannot be halved.
        """
        fresh = self.config.discriminator_batches == "fresh"
        other, own = divided(batch, 2) if fresh else (batch, batch)

        with torch.no_grad():
            final = self.generator(other.image, other.mask).final
        composite = paste(final, other.image, other.mask)
        discriminator_losses = self.discriminator_losses(other, composite)
        self.update("discriminator", discriminator_losses)

        prediction: Prediction = self.prepared_generator(own.image, own.mask)
        generator_losses = self.generator_losses(own, prediction)
        self.update("generator", generator_losses)
        return detached({**discriminator_losses, **generator_losses})

    def discriminator_losses(self, batch: Batch, composite: Tensor) -> dict[str, Tensor]:
        """Discriminate originals from composites, in one pass, patch by patch (Eq. 4)."""
        outputs = torch.cat([batch.image, composite])
        scores = self.prepared_discriminator(outputs, torch.cat([batch.mask, batch.mask]))
        real, fake = scores.chunk(2)
        self.log_accuracy("discriminator", real, fake)
        # The shared loss halves each part already.
        weight = 2.0 * self.config.discriminator_weight
        return {"discriminator": weight * hinge_discriminator(real, fake)}

    def generator_losses(self, batch: Batch, prediction: Prediction) -> dict[str, Tensor]:
        """Match the original everywhere with both outputs, and pass for one (Eq. 5)."""
        config = self.config
        composite = paste(prediction.final, batch.image, batch.mask)
        with frozen(self.networks["discriminator"]) as discriminator:
            fake = discriminator(composite, batch.mask)
        return {
            "coarse": config.coarse_weight * mean_error(prediction.coarse, batch.image),
            "image": config.image_weight * mean_error(prediction.final, batch.image),
            "adversarial": config.adversarial_weight * hinge_generator(fake),
        }


def mean_error(output: Tensor, image: Tensor) -> Tensor:
    """Return mean(|output - image|) over all pixels, a scalar."""
    return (at_least_float32(output) - image).abs().mean()
