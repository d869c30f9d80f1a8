"""MI-GAN's losses: a teacher's colours, and adversarial with a penalty on the slope."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.layers import beside
from infill.models.losses import detached, frozen, weighted_l1
from infill.models.masking import paste
from infill.models.migan.config import MIGANConfig
from infill.models.migan.discriminator import Discriminator
from infill.models.migan.networks import Generator, Prediction, masked_input
from infill.models.migan.teacher import CoModGAN, load_teacher


class MIGANObjective(Objective):
    """A generator step, then a discriminator step on images of the updated generator."""

    def __init__(self, config: MIGANConfig, prepare: Prepare) -> None:
        """Build both networks and their optimizers.

        Args:
            config: the released numbers; the teacher's file is read now, if it is needed.
            prepare: wraps each trained network and places it on its device.

        Raises:
            ValueError: if the teacher's weights are missing or have another checksum.
        """
        self.config = config
        self.teacher = load_teacher(config) if config.distillation_weight else None
        self.networks: dict[str, nn.Module] = {
            "generator": Generator(config),
            "discriminator": Discriminator(config),
        }
        self.prepared = {role: prepare(network) for role, network in self.networks.items()}
        self.build_optimizers(config)
        if self.teacher is not None:
            beside(self.teacher, self.generator)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the generator, then the discriminator.

        Args:
            batch: this worker's share of the global batch; its seed determines the noise and what
                the teacher imagines.

        Returns:
            "adversarial" and "discriminator", every few steps "penalty" and, unless they are
            switched off, "distillation" and "image", weighted.
        """
        prediction = self.generated(batch, batch.seed)
        generator_losses = self.generator_losses(batch, prediction)
        self.update("generator", generator_losses)
        if self.config.generates_again:
            with torch.no_grad():
                prediction = self.generated(batch, batch.seed + 1)
        discriminator_losses = self.discriminator_losses(batch, prediction.unclipped.detach())
        self.update("discriminator", discriminator_losses)
        return detached(generator_losses | discriminator_losses)

    def generated(self, batch: Batch, seed: int) -> Prediction:
        """Run the generator, with new noise if the configuration has it so."""
        noise = None
        generator = self.networks["generator"]
        if self.config.random_noise and isinstance(generator, Generator):
            noise = generator.random_noise(batch.image, seed % 2**63)
        prediction: Prediction = self.prepared["generator"](batch.image, batch.mask, noise)
        return prediction

    def generator_losses(self, batch: Batch, prediction: Prediction) -> dict[str, Tensor]:
        """Pass for an original, and match it or a teacher's image."""
        composite = paste(prediction.unclipped, batch.image, batch.mask)
        with frozen(self.networks["discriminator"]) as discriminator:
            logits = discriminator(under_mask(composite, batch.mask))
        adversarial = functional.softplus(-logits).mean()
        losses = {"adversarial": self.config.adversarial_weight * adversarial}
        if self.config.image_weight:
            error = weighted_l1(prediction.unclipped, batch.image, batch.mask)
            losses["image"] = self.config.image_weight * error
        if self.teacher is not None:
            apart = self.distance_to(self.teacher, batch, prediction)
            losses["distillation"] = self.config.distillation_weight * apart
        return losses

    def distance_to(self, teacher: CoModGAN, batch: Batch, prediction: Prediction) -> Tensor:
        """Return the sum over the larger sizes of the distance to the teacher's colours."""
        latent = teacher.random_latent(len(batch.image), batch.seed, batch.image)
        with torch.no_grad():
            wanted = teacher(masked_input(batch.image, batch.mask), latent)
        return torch.stack(
            [
                weighted_l1(own, other, functional.interpolate(batch.mask, own.shape[-2:]))
                for own, other in zip(prediction.colours, wanted, strict=True)
                if own.shape[-1] >= self.config.distillation_start_px
            ]
        ).sum()

    def discriminator_losses(self, batch: Batch, predicted: Tensor) -> dict[str, Tensor]:
        """Discriminate originals from composites; sometimes penalise the slope at originals."""
        config = self.config
        penalised = bool(config.penalty_weight) and batch.step % config.penalty_every_steps == 0
        composite = paste(predicted, batch.image, batch.mask)
        originals = under_mask(batch.image, batch.mask).detach().requires_grad_(penalised)
        with torch.enable_grad():
            fake = self.prepared["discriminator"](under_mask(composite, batch.mask))
            real = self.prepared["discriminator"](originals)
        self.log_accuracy("discriminator", real.detach(), fake.detach())
        losses = {
            "discriminator": functional.softplus(fake).mean() + functional.softplus(-real).mean()
        }
        if penalised:
            (slope,) = torch.autograd.grad(real.sum(), originals, create_graph=True)
            penalty = slope.square().sum(dim=(1, 2, 3)).mean()
            weight = config.penalty_weight / 2 * config.penalty_every_steps
            losses["penalty"] = weight * penalty
        return losses


def under_mask(image: Tensor, mask: Tensor) -> Tensor:
    """Return what the discriminator reads: 1/2 where known, -1/2 in the hole; then all colours."""
    return torch.cat([0.5 - mask.to(image.dtype), image], dim=1)
