"""DeepGIN's losses: L1 at two sizes, adversarial, perceptual and style; in two stages."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.deepgin.config import DeepGINConfig
from infill.models.deepgin.networks import Discriminators, Generator, Prediction, shrunk
from infill.models.layers import at_least_float32, beside
from infill.models.losses import detached, frozen, hinge_generator, weighted_l1
from infill.models.masking import paste, whitened
from infill.models.vgg import VGGFeatures, load_features

Form = Literal["squared", "absolute"]
TAPS = {
    "released": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "conv5_1"),
    "before_relu": ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"),
}


def alone(network: nn.Module) -> nn.Module:
    """Prepare a network for one device: return it as it is."""
    return network


class DeepGINObjective(Objective):
    """A generator step, then a discriminator step on the same outputs."""

    def __init__(self, config: DeepGINConfig, prepare: Prepare = alone) -> None:
        """Build all networks, their optimizers and VGG-19.

        Args:
            config: the paper's numbers; VGG's file is read now.
            prepare: wraps each trained network and places it on its device.

        Raises:
            ValueError: if VGG's weights are missing or have another checksum.
        """
        self.config = config
        self.perceptual = build_perceptual(config)
        self.networks = {"generator": Generator(config), "discriminator": Discriminators(config)}
        self.prepared = {role: prepare(network) for role, network in self.networks.items()}
        self.build_optimizers(config)
        if self.perceptual is not None:
            beside(self.perceptual, self.generator)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the generator and, after the first stage, the discriminators.

        The discriminators score the images predicted before the generator's update, with the
        weights they had then, as the released code takes both gradients at once.

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "coarse", "output" and "small"; in the second stage also "adversarial", "perceptual",
            "style", "variation" and "discriminator"; all weighted.
        """
        config = self.config
        start = config.warm_up_epochs * config.epoch_steps
        for optimizer in self.optimizers.values():
            if batch.step == start:
                optimizer.state.clear()  # the second stage begins with fresh optimizers
        prediction: Prediction = self.prepared["generator"](batch.image, batch.mask, batch.labels)
        image = (batch.image + 1.0) / 2.0
        losses = self.picture_losses(prediction, image, batch.mask)
        if batch.step < start:
            self.update("generator", losses)
            return detached(losses)
        masked_image = whitened(batch.image, batch.mask)
        completed = paste(prediction.unclipped, image, batch.mask)
        losses |= self.appearance_losses(prediction.unclipped, completed, image, masked_image)
        self.update("generator", losses)
        discriminator_losses = self.discriminator_losses(image, completed.detach(), masked_image)
        self.update("discriminator", discriminator_losses)
        return detached(losses | discriminator_losses)

    def picture_losses(
        self, prediction: Prediction, image: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Match the original at both sizes: L1, the hole's errors counting more (Eq. 1)."""
        hole = self.config.hole_weight
        losses = {"coarse": hole_l1(prediction.coarse, image, mask, hole)}
        if self.config.refine:
            losses["output"] = hole_l1(prediction.unclipped, image, mask, hole)
        if prediction.small is not None:
            losses["small"] = hole_l1(prediction.small, shrunk(image), shrunk(mask), hole)
        return losses

    def appearance_losses(
        self, predicted: Tensor, completed: Tensor, image: Tensor, masked_image: Tensor
    ) -> dict[str, Tensor]:
        """Return the adversarial, perceptual, style and variation losses (Eq. 2, 4 to 6)."""
        config = self.config
        with frozen(self.networks["discriminator"]) as discriminators:
            whole, half = discriminators(masked_image, completed)
        adversarial = hinge_generator(whole) + hinge_generator(half)
        losses = {
            "adversarial": config.adversarial_weight * adversarial,
            "variation": config.variation_weight
            * total_variation(completed, config.variation_form),
        }
        if self.perceptual is not None:
            features, textures = self.compared(predicted, completed, image)
            losses["perceptual"] = config.perceptual_weight * features
            losses["style"] = config.style_weight * textures
        return losses

    def compared(
        self, predicted: Tensor, completed: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the distances of features and of Gram matrices from the original's.

        Both are summed over the two images and, weighted, over the layers. The original's features
        are computed once, without a graph.
        """
        config = self.config
        assert self.perceptual is not None
        with torch.no_grad():
            wanted = self.perceptual(self.resized(image))
        seen = self.perceptual(self.resized(torch.cat([predicted, completed])))
        features, textures = [], []
        for maps, target, weight in zip(seen, wanted, config.perceptual_layer_weights, strict=True):
            pairs = at_least_float32(maps).chunk(2)
            target = at_least_float32(target)
            gram = gram_matrix(target)
            for one in pairs:
                features.append(weight * (one - target).abs().mean())
                difference = gram_matrix(one) - gram
                textures.append(weight * distance(difference, config.style_form))
        return torch.stack(features).sum(), torch.stack(textures).sum()

    def resized(self, output: Tensor) -> Tensor:
        """Resize an image [B, 3, H, W] in [0, 1] to VGG's input size."""
        side = self.config.perceptual_size_px
        if not side:
            return output
        return functional.interpolate(output, (side, side), mode="bilinear", align_corners=True)

    def discriminator_losses(
        self, image: Tensor, completed: Tensor, masked_image: Tensor
    ) -> dict[str, Tensor]:
        """Discriminate originals from completed images by the hinge loss, in one pass (Eq. 3)."""
        both = torch.cat([image, completed])
        scores = self.prepared["discriminator"](torch.cat([masked_image, masked_image]), both)
        pairs = [logits.chunk(2) for logits in scores]
        real, fake = (torch.cat([s.flatten() for s in side]) for side in zip(*pairs, strict=True))
        self.log_accuracy("discriminator", real, fake)
        terms = [hinge(*pair) for pair in pairs]
        return {"discriminator": self.config.discriminator_weight * torch.stack(terms).sum()}


def build_perceptual(config: DeepGINConfig) -> VGGFeatures | None:
    """Return VGG-19, or None if no loss looks through it.

    Raises:
        ValueError: if its weights are missing or have another checksum.
    """
    if not config.perceptual_weight and not config.style_weight:
        return None
    taps = TAPS[config.perceptual_taps]
    return load_features(19, taps, config.perceptual_weights, config.perceptual_sha256)


def hole_l1(output: Tensor, image: Tensor, mask: Tensor, hole_weight: float) -> Tensor:
    """Return hole_weight * mean(|p - g| m) + mean(|p - g| (1 - m)): both over every element."""
    hole = weighted_l1(output, image, mask)
    return hole_weight * hole + weighted_l1(output, image, 1.0 - mask)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return mean(relu(1 - real)) + mean(relu(1 + fake)), for logits."""
    real, fake = at_least_float32(real), at_least_float32(fake)
    return functional.relu(1.0 - real).mean() + functional.relu(1.0 + fake).mean()


def gram_matrix(features: Tensor) -> Tensor:
    """Return each image's F F^T / (C H W): [B, C, C] for [B, C, H, W]."""
    flat = features.flatten(2)
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.mT / flat[0].numel()


def distance(difference: Tensor, form: Form) -> Tensor:
    """Return the mean of squares or of absolute values."""
    return difference.square().mean() if form == "squared" else difference.abs().mean()


def total_variation(output: Tensor, form: Form) -> Tensor:
    """Return how unlike neighbours are: twice the mean squares, or the mean absolute values."""
    output = at_least_float32(output)
    rows = output[:, :, 1:] - output[:, :, :-1]
    columns = output[..., 1:] - output[..., :-1]
    factor = 2.0 if form == "squared" else 1.0
    return factor * (distance(rows, form) + distance(columns, form))
