"""The probabilistic SPN's losses, on two samples per hole (Sec. 3.3.2)."""

import torch
from torch import Tensor, nn

from infill.models.architecture import Batch, Prepare
from infill.models.layers import at_least_float32, beside
from infill.models.losses import detached, frozen, hinge_discriminator, hinge_generator, weighted_l1
from infill.models.spn.config import SPNConfig
from infill.models.spn.networks import Prediction
from infill.models.spn.objective import SPNObjective, alone
from infill.models.spn.probabilistic import (
    DiscriminatorOutput,
    MatchingDiscriminator,
    ProbabilisticGenerator,
)
from infill.models.vgg import load_features

NUM_SAMPLES = 2
"""Number of samples for each hole in training: the minimum that can differ."""
SMALLEST_DISTANCE = 1e-5
"""Added to the distance of two images before it is inverted; epsilon in Eq. 14."""
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""Layers of VGG-19, K = 5."""


class ProbabilisticObjective(SPNObjective):
    """Train the probabilistic SPN: one discriminator step, then one generator step."""

    def __init__(self, config: SPNConfig, prepare: Prepare = alone) -> None:
        """Build networks, optimizers, teacher and the perceptual network.

        Raises:
            ValueError: if the teacher's or VGG-19's weights are missing.
        """
        self.perceptual = load_features(
            19,
            LAYERS,
            config.perceptual_weights,
            config.perceptual_sha256,
            normalise_colours=config.perceptual_normalised,
        )
        super().__init__(config, prepare)
        beside(self.perceptual, self.generator)

    def networks_of(self, config: SPNConfig) -> dict[str, nn.Module]:
        """Return the two networks of this variant, not yet spread over devices."""
        return {
            "generator": ProbabilisticGenerator(config),
            "discriminator": MatchingDiscriminator(config.channels),
        }

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the discriminator, then the generator (Eq. 15).

        Args:
            batch: this worker's share of the global batch; its seed determines the two samples.

        Returns:
            "discriminator", "prior" (if taught), "image", "adversarial", "feature_matching",
            "perceptual", "diversity" and "latent", weighted.
        """
        generator = self.generator
        assert isinstance(generator, ProbabilisticGenerator)
        noise = generator.sample_noise(batch.image, NUM_SAMPLES, batch.seed)
        prediction: Prediction = self.prepared_generator(batch.image, batch.mask, noise)

        images = torch.cat([batch.image, prediction.final.detach()])
        output: DiscriminatorOutput = self.prepared_discriminator(images)
        count = batch.image.shape[0]
        real, fake = output.logits[:count], output.logits[count:]
        discriminator_losses = {"discriminator": hinge_discriminator(real, fake)}
        # The discriminator's features of the originals, before the update as released.
        real_features = [seen[:count].detach() for seen in output.features]
        self.update("discriminator", discriminator_losses)

        generator_losses = {
            **self.prior_losses(batch, prediction.prior),
            **self.image_losses(batch, prediction.final),
            **self.adversarial_losses(prediction.final, real_features),
            **self.perceptual_losses(batch, prediction.final),
            **self.latent_losses(*prediction.latent),
        }
        self.update("generator", generator_losses)
        return detached({**discriminator_losses, **generator_losses})

    def adversarial_losses(
        self, predicted: Tensor, real_features: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the adversarial and feature matching losses (Eq. 13, first sum)."""
        with frozen(self.networks["discriminator"]) as discriminator:
            output: DiscriminatorOutput = discriminator(predicted)
        distances = [
            mean_distance(by_sample(seen), real)
            for seen, real in zip(output.features, real_features, strict=True)
        ]
        matching = torch.stack(distances).mean()
        return {
            "adversarial": self.config.adversarial_weight * hinge_generator(output.logits),
            "feature_matching": self.config.feature_matching_weight * matching,
        }

    def perceptual_losses(self, batch: Batch, predicted: Tensor) -> dict[str, Tensor]:
        """Return the perceptual and diversity losses (Eq. 13, second sum, and 14)."""
        config = self.config
        with torch.no_grad():
            real = self.perceptual((batch.image + 1.0) / 2.0)
        seen = [by_sample(features) for features in self.perceptual((predicted + 1.0) / 2.0)]
        distances = [mean_distance(fake, of) for fake, of in zip(seen, real, strict=True)]
        likeness = sum_of(distances, config.perceptual_layer_weights)
        difference = diversity(seen, batch.mask, config.diversity_form)
        return {
            "perceptual": config.perceptual_weight * likeness,
            "diversity": config.diversity_weight * difference,
        }

    def latent_losses(self, mean: Tensor, deviation: Tensor) -> dict[str, Tensor]:
        """Keep the latent near the standard normal distribution (Eq. 6)."""
        divergence = latent_divergence(mean, deviation, self.config.latent_form)
        return {"latent": self.config.latent_weight * divergence}


def by_sample(features: Tensor) -> Tensor:
    """View [R * B, ...] as [R, B, ...]."""
    return features.reshape(NUM_SAMPLES, -1, *features.shape[1:])


def mean_distance(predicted: Tensor, real: Tensor) -> Tensor:
    """Return mean(|predicted - real|) of [R, B, ...] against [B, ...], without repeating it."""
    return weighted_l1(predicted, real, torch.ones((), device=real.device))


def sum_of(terms: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    """Return the weighted sum of scalars."""
    return torch.stack([w * term for w, term in zip(weights, terms, strict=True)]).sum()


def diversity(seen: list[Tensor], mask: Tensor, form: str) -> Tensor:
    """Return the similarity of two samples inside the hole: large when they coincide (Eq. 14).

    Args:
        seen: maps [2, B, C, h, w] of each perceptual layer.
        mask: [B, 1, H, W], 1 in the hole; at each layer the top-left pixel of a cell counts.
        form: "released" inverts the sum of distances per masked area; "paper" averages the
            inverses of the distances.
    """
    distances, areas = [], []
    for features in seen:
        stride = mask.shape[-1] // features.shape[-1]
        small = mask[..., ::stride, ::stride]
        first, second = at_least_float32(features).unbind(0)
        distances.append(((first - second).abs() * small).mean())
        # A small hole may vanish between the pixels of a coarse layer, which then says nothing.
        areas.append(small.mean().clamp(min=1.0 / small.numel()))
    distance = torch.stack(distances)
    if form == "paper":
        return (1.0 / (distance + SMALLEST_DISTANCE)).mean()
    return 1.0 / ((distance / torch.stack(areas)).sum() + SMALLEST_DISTANCE)


def latent_divergence(mean: Tensor, deviation: Tensor, form: str) -> Tensor:
    """Return the mean divergence between N(mean, deviation^2) and the standard normal.

    "released" is KL(N(0, 1) || q), "paper" KL(q || N(0, 1)) of Eq. 6.
    """
    variance = deviation.square()
    if form == "paper":
        terms = 0.5 * (variance + mean.square() - 1.0) - deviation.log()
    else:
        terms = deviation.log() + (1.0 + mean.square()) / (2.0 * variance) - 0.5
    return terms.mean()
