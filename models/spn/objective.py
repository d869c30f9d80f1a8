"""SPN's losses: distillation, reconstruction and a patch discriminator (Sec. 3.3.1)."""

import torch
from torch import Tensor, nn

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.layers import at_least_float32, beside
from infill.models.losses import (
    detached,
    frozen,
    non_saturating_discriminator,
    non_saturating_generator,
    weighted_l1,
)
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Discriminator, Prediction, deterministic_generator
from infill.models.spn.prior_teacher import build_any_teacher


def alone(network: nn.Module) -> nn.Module:
    """Prepare a network for one device: return it as it is."""
    return network


class SPNObjective(Objective):
    """Train the deterministic SPN: one discriminator step, then one generator step."""

    def __init__(self, config: SPNConfig, prepare: Prepare = alone) -> None:
        """Build both networks, their optimizers and the teacher.

        Args:
            config: the paper's numbers; the teacher's file is read now.
            prepare: wraps each trained network and places it on its device.

        Raises:
            ValueError: if the teacher's weights are missing or have another checksum.
        """
        self.config = config
        self.teacher = build_any_teacher(config)
        self.networks = self.networks_of(config)
        self.prepared_generator = prepare(self.networks["generator"])
        self.prepared_discriminator = prepare(self.networks["discriminator"])
        self.build_optimizers(config)
        if self.teacher is not None:
            beside(self.teacher, self.generator)

    def networks_of(self, config: SPNConfig) -> dict[str, nn.Module]:
        """Return generator and discriminator, not yet spread over devices."""
        return {
            "generator": deterministic_generator(config),
            "discriminator": Discriminator(config.channels),
        }

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the discriminator, then the generator (Eq. 11 and 12).

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "discriminator", "prior" (if taught), "image" and "adversarial", weighted.
        """
        prediction: Prediction = self.prepared_generator(batch.image, batch.mask)

        discriminator_losses = self.discriminator_losses(batch.image, prediction.final.detach())
        self.update("discriminator", discriminator_losses)

        generator_losses = self.generator_losses(batch, prediction)
        self.update("generator", generator_losses)
        return detached({**discriminator_losses, **generator_losses})

    def discriminator_losses(self, image: Tensor, prediction: Tensor) -> dict[str, Tensor]:
        """Discriminate originals from predictions, in one pass (Eq. 11)."""
        logits = self.prepared_discriminator(torch.cat([image, prediction]))
        real, fake = logits.chunk(2)
        self.log_accuracy("discriminator", real, fake)
        return {"discriminator": non_saturating_discriminator(real, fake)}

    def generator_losses(self, batch: Batch, prediction: Prediction) -> dict[str, Tensor]:
        """Imitate the teacher, match the original, pass for one (Eq. 12)."""
        with frozen(self.networks["discriminator"]) as discriminator:
            fake = discriminator(prediction.final)
        return {
            **self.prior_losses(batch, prediction.prior),
            **self.image_losses(batch, prediction.final),
            "adversarial": self.config.adversarial_weight * non_saturating_generator(fake),
        }

    def image_losses(self, batch: Batch, predicted: Tensor) -> dict[str, Tensor]:
        """Match the original everywhere, the hole above all (Eq. 10)."""
        emphasis = 1.0 + self.config.hole_emphasis * batch.mask
        samples = predicted.reshape(-1, *batch.image.shape)
        # In [0, 1] as the authors': an error between -1 and 1 is half as large there.
        return {
            "image": self.config.image_weight * 0.5 * weighted_l1(samples, batch.image, emphasis)
        }

    def prior_losses(self, batch: Batch, prior: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Imitate the teacher's view of the complete image, the hole above all (Eq. 4)."""
        config = self.config
        if self.teacher is None:
            return {}
        if config.prior_stop_step is not None and batch.step >= config.prior_stop_step:
            # Every head stays in the graph: DDP waits for a gradient of each parameter.
            means = [at_least_float32(level).mean() for level in prior]
            return {"prior": 0.0 * torch.stack(means).sum()}
        targets = self.teacher(batch.image)
        terms = [
            prior_loss(level, target, batch.mask, config.prior_hole_emphasis)
            for level, target in zip(prior, targets, strict=False)
        ]
        return {"prior": config.prior_weight * torch.stack(terms).sum()}


def prior_loss(prior: Tensor, target: Tensor, mask: Tensor, hole_emphasis: float) -> Tensor:
    """Return mean(|prior - target| * (1 + alpha * mask)) at one level (Eq. 4).

    Args:
        prior: a head's map, [R * B, C, h, w], for R predictions of each image.
        target: the teacher's, [B, C, h, w] or at half that size, to be repeated 2 x 2.
        mask: [B, 1, H, W] at full size; its top-left pixel of each cell is taken.
        hole_emphasis: alpha.
    """
    batch, channels, height, width = target.shape
    factor = prior.shape[-1] // width
    stride = mask.shape[-1] // prior.shape[-1]
    mask = mask[..., ::stride, ::stride]
    # Views in which prediction, target and mask broadcast: nothing is repeated in memory.
    cells = (height, factor, width, factor)
    return weighted_l1(
        prior.view(-1, batch, channels, *cells),
        target[..., None, :, None],
        1.0 + hole_emphasis * mask.view(batch, 1, *cells),
    )
