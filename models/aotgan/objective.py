"""AOT-GAN's losses: L1, style, perceptual, and a discriminator that looks for the hole."""

import torch
from torch import Tensor
from torch.nn import functional

from infill.models.aotgan.config import AOTGANConfig
from infill.models.aotgan.networks import Discriminator, Generator
from infill.models.architecture import Batch, Objective, Prepare
from infill.models.layers import at_least_float32, beside
from infill.models.losses import detached, frozen, gram
from infill.models.masking import paste
from infill.models.vgg import VGGFeatures, load_features

CONTENT = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""Layers of VGG-19 whose features the perceptual loss compares."""
STYLE = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")
"""Layers of VGG-19 whose Gram matrices the style loss compares."""


class AOTGANObjective(Objective):
    """A generator step and a discriminator step on the same prediction."""

    def __init__(self, config: AOTGANConfig, prepare: Prepare) -> None:
        """Build both networks, their optimizers and VGG-19.

        Args:
            config: the released numbers; VGG's file is read now, if a loss needs it.
            prepare: wraps each trained network and places it on its device.

        Raises:
            ValueError: if VGG's weights are missing or have another checksum.
        """
        self.config = config
        self.perceptual: VGGFeatures | None = None
        if config.style_weight or config.perceptual_weight:
            layers = CONTENT + STYLE
            weights, sha256 = config.perceptual_weights, config.perceptual_sha256
            self.perceptual = load_features(19, layers, weights, sha256)
        self.networks = {"generator": Generator(config), "discriminator": Discriminator(config)}
        self.prepared = {role: prepare(network) for role, network in self.networks.items()}
        self.build_optimizers(config)
        if self.perceptual is not None:
            beside(self.perceptual, self.generator)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update both networks; the discriminator's scores are of the generator before its update.

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "image", "adversarial", "discriminator" and, unless both are switched off, "style" and
            "perceptual", weighted.
        """
        prediction = self.prepared["generator"](batch.image, batch.mask).final
        composite = paste(prediction, batch.image, batch.mask)
        generator_losses = self.generator_losses(batch, prediction, composite)
        discriminator_losses = self.discriminator_losses(batch, composite.detach())
        self.update("generator", generator_losses)
        self.update("discriminator", discriminator_losses)
        return detached(generator_losses | discriminator_losses)

    def generator_losses(
        self, batch: Batch, prediction: Tensor, composite: Tensor
    ) -> dict[str, Tensor]:
        """Match the original in pixels and features; hide the hole from the discriminator."""
        config = self.config
        with frozen(self.networks["discriminator"]) as discriminator:
            scores = at_least_float32(discriminator(composite))
        adversarial = self.hiding(scores, batch.mask)
        return {
            "image": config.image_weight * (prediction - batch.image).abs().mean(),
            **self.feature_losses(prediction, batch.image),
            "adversarial": config.adversarial_weight * adversarial,
        }

    def hiding(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the generator's adversarial loss of a composite's scores [B, 1, h, w]."""
        seen = enlarged(scores, mask)
        if self.config.adversarial_form == "released":
            return (seen - 1.0).square().mean()
        # A batch without a hole has nothing to hide.
        smallest = torch.finfo(seen.dtype).tiny
        return (seen.square() * mask).mean() / mask.mean().to(seen.dtype).clamp_min(smallest)

    def feature_losses(self, prediction: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Look like the original to VGG-19, where things are and in style."""
        if self.perceptual is None:
            return {}
        with torch.no_grad():
            wanted = self.perceptual((image + 1.0) / 2.0)
        seen = self.perceptual((prediction + 1.0) / 2.0)
        pairs = list(zip(seen, wanted, strict=True))
        content = [distance(one, other) for one, other in pairs[: len(CONTENT)]]
        style = [distance(gram(one), gram(other)) for one, other in pairs[len(CONTENT) :]]
        return {
            "style": self.config.style_weight * torch.stack(style).sum(),
            "perceptual": self.config.perceptual_weight * torch.stack(content).sum(),
        }

    def discriminator_losses(self, batch: Batch, composite: Tensor) -> dict[str, Tensor]:
        """Find the hole of composites, and none in originals."""
        scores = self.prepared["discriminator"](torch.cat([batch.image, composite]))
        seen = enlarged(at_least_float32(scores), batch.mask)
        real, fake = seen.chunk(2)
        wanted = self.target(batch.mask.to(seen.dtype))
        # Scores are high where an image looks generated.
        in_hole = batch.mask.bool()
        self.log_accuracy("discriminator", 0.5 - real, 0.5 - fake, counted=in_hole)
        return {"discriminator": (fake - wanted).square().mean() + real.square().mean()}

    def target(self, mask: Tensor) -> Tensor:
        """Return what the discriminator should see in a composite: [B, 1, H, W], 0 to 1."""
        if self.config.discriminator_target == "patch":
            return torch.ones_like(mask)
        if self.config.discriminator_target == "hard":
            return mask
        return blurred(mask, self.config.blur_px, self.config.blur_deviation_px)


def enlarged(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores [B, 1, h, w] at the mask's size, corners on corners."""
    size = mask.shape[-2:]
    return functional.interpolate(scores, size, mode="bilinear", align_corners=True)


def blurred(mask: Tensor, window_px: int, deviation_px: float) -> Tensor:
    """Blur [B, 1, H, W] by a Gaussian window; outside the frame nothing is missing."""
    places = torch.arange(window_px, device=mask.device, dtype=mask.dtype) - window_px // 2
    weights = torch.exp(-places.square() / (2 * deviation_px**2))
    weights = weights / weights.sum()
    with torch.autocast(mask.device.type, enabled=False):
        down = functional.conv2d(mask, weights[None, None, :, None], padding=(window_px // 2, 0))
        return functional.conv2d(down, weights[None, None, None, :], padding=(0, window_px // 2))


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Return mean(|one - other|), a scalar."""
    return (at_least_float32(one) - at_least_float32(other)).abs().mean()
