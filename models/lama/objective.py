"""LaMa's losses: L1 on known pixels, adversarial in the hole, and perceptual."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.lama.config import LaMaConfig
from infill.models.lama.networks import Discriminator, Generator
from infill.models.lama.perceptual import DilatedResNet, load_encoder
from infill.models.layers import at_least_float32, beside
from infill.models.losses import detached, frozen, weighted_l1


def alone(network: nn.Module) -> nn.Module:
    """Prepare a network for one device: return it as it is."""
    return network


class LaMaObjective(Objective):
    """A generator step, then a discriminator step on images of the updated generator."""

    def __init__(self, config: LaMaConfig, prepare: Prepare = alone) -> None:
        """Build both networks, their optimizers and the perceptual encoder.

        Args:
            config: the paper's numbers; the encoder's file is read now.
            prepare: wraps each trained network and places it on its device.

        Raises:
            ValueError: if the encoder's weights are missing or have another checksum.
        """
        self.config = config
        self.perceptual: DilatedResNet | None = None
        if config.perceptual_weight:
            self.perceptual = load_encoder(config.perceptual_weights, config.perceptual_sha256)
        self.networks: dict[str, nn.Module] = {"generator": Generator(config)}
        if config.adversarial_weight or config.matching_weight:
            self.networks["discriminator"] = Discriminator(config.discriminator_channels)
        self.prepared = {role: prepare(network) for role, network in self.networks.items()}
        self.build_optimizers(config)
        if self.perceptual is not None:
            beside(self.perceptual, self.generator)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the generator, then the discriminator (Sec. 2.2).

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "known", "hole" and "perceptual" unless switched off, and unless neither adversarial
            nor matching loss is wanted, "adversarial", "matching", "discriminator" and "penalty",
            weighted.
        """
        prediction = self.prepared["generator"](batch.image, batch.mask)
        predicted, image = ((one + 1.0) / 2.0 for one in (prediction.final, batch.image))
        generator_losses = self.generator_losses(predicted, image, batch.mask)
        self.update("generator", generator_losses)
        if "discriminator" not in self.networks:
            return detached(generator_losses)
        if self.config.generates_again:
            with torch.no_grad():
                predicted = (self.prepared["generator"](batch.image, batch.mask).final + 1.0) / 2.0
        discriminator_losses = self.discriminator_losses(predicted.detach(), image, batch.mask)
        self.update("discriminator", discriminator_losses)
        return detached(generator_losses | discriminator_losses)

    def generator_losses(self, predicted: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the L1, adversarial, matching and perceptual losses."""
        config = self.config
        losses = {"known": config.known_weight * weighted_l1(predicted, image, 1.0 - mask)}
        if "discriminator" in self.networks:
            with frozen(self.networks["discriminator"]) as discriminator:
                with torch.no_grad():
                    _, wanted = discriminator(image)
                logits, seen = discriminator(predicted)
            losses["adversarial"] = config.adversarial_weight * functional.softplus(-logits).mean()
            losses["matching"] = (
                config.matching_weight * torch.stack(distances(seen, wanted)).mean()
            )
        if config.hole_weight:
            losses["hole"] = config.hole_weight * weighted_l1(predicted, image, mask)
        if self.perceptual is not None:
            with torch.no_grad():
                target = self.perceptual(image)
            apart = torch.stack(distances(self.perceptual(predicted), target)).sum()
            losses["perceptual"] = config.perceptual_weight * apart
        return losses

    def discriminator_losses(
        self, predicted: Tensor, image: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Discriminate originals from predictions; known pixels count as original (Eq. 4 to 6)."""
        image = image.detach().requires_grad_()
        with torch.enable_grad():
            real, _ = self.prepared["discriminator"](image)
            fake, _ = self.prepared["discriminator"](predicted)
            (slope,) = torch.autograd.grad(real.sum(), image, create_graph=True)
        penalty = slope.flatten(1).square().sum(1).mean()
        hole = functional.interpolate(mask.to(fake.dtype), fake.shape[2:], mode="nearest")
        in_hole = hole.expand_as(fake) > 0
        self.log_accuracy("discriminator", real.detach(), fake.detach(), counted=in_hole)
        fake_losses = functional.softplus(fake) * hole + functional.softplus(-fake) * (1.0 - hole)
        return {
            "discriminator": functional.softplus(-real).mean() + fake_losses.mean(),
            "penalty": self.config.penalty_weight * penalty,
        }


def distances(maps: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the mean squared difference of each pair of maps."""
    return [
        (at_least_float32(one) - at_least_float32(target)).square().mean()
        for one, target in zip(maps, targets, strict=True)
    ]
