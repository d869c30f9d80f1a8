"""MADF's losses: the distance to the original in pixels and in features, for every output.

There is no discriminator. All losses are computed in ImageNet's normalised colours, in which
the networks work and VGG-16 was trained.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from infill.models.architecture import Batch, Objective, Prepare
from infill.models.layers import at_least_float32, beside
from infill.models.losses import detached, gram, weighted_l1
from infill.models.madf.config import MADFConfig
from infill.models.madf.networks import Generator, NormalisedColours, Prediction
from infill.models.madf.partial import PartialUNet
from infill.models.masking import paste
from infill.models.vgg import load_features

LAYERS = ("pool1", "pool2", "pool3")
"""Layers of VGG-16."""


def alone(network: nn.Module) -> nn.Module:
    """Prepare a network for one device: return it as it is."""
    return network


def build_generator(config: MADFConfig) -> Generator | PartialUNet:
    """Return the generator of the configuration's encoder."""
    return PartialUNet(config) if config.encoder == "partial" else Generator(config)


class Supervision(NamedTuple):
    """The outputs, of K + 1 from coarse to fine, that each loss compares."""

    pixels: tuple[int, ...]
    """Graded by L1."""
    perceptual: tuple[int, ...]
    """Graded by VGG-16's features; the images of ``style`` are among them."""
    style: tuple[int, ...]
    """Graded by the features' Gram matrices."""
    variation: tuple[int, ...]
    """Graded by the composite's total variation."""


def supervision(config: MADFConfig) -> Supervision:
    """Return which images are graded (Table III and Sec. III-E)."""
    last = config.num_refinements
    every, only = tuple(range(last + 1)), (last,)
    if config.supervision == "same":
        return Supervision(every, every, every, every)
    if config.supervision == "none":
        return Supervision(only, only, only, only)
    style = only if config.style_target == "last" else (min(1, last),)
    return Supervision(every, every[min(1, last) :], style, only)


class Graded(NamedTuple):
    """A step's images in normalised colours."""

    image: Tensor
    """The original, [B, 3, H, W]."""
    hole: Tensor
    """[B, 1, H, W], 1 in the hole, 0 where known, nothing between."""
    outputs: tuple[Tensor, ...]
    """Pictures, coarse to fine."""
    composites: tuple[Tensor, ...]
    """The same with the original's known pixels."""


class MADFObjective(Objective):
    """Train MADF: one update of the generator per batch."""

    def __init__(self, config: MADFConfig, prepare: Prepare = alone) -> None:
        """Build the generator, its optimizer and the perceptual network.

        Args:
            config: the settings; VGG-16's file is read here, if a loss needs it.
            prepare: wraps the generator and places it on its device.

        Raises:
            ValueError: if VGG-16's weights are missing or have another checksum.
        """
        self.config = config
        self.supervision = supervision(config)
        self.perceptual: nn.Module | None = None
        if config.perceptual_weight or config.style_weight:
            self.perceptual = load_features(
                16,
                LAYERS,
                config.perceptual_weights,
                config.perceptual_sha256,
                normalise_colours=False,
            )
        generator = build_generator(config)
        self.networks = {"generator": generator}
        self.prepared_generator = prepare(generator)
        self.build_optimizers(config)
        if self.perceptual is not None:
            beside(self.perceptual, generator)
        self.colours = beside(NormalisedColours(), generator)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the generator once by all losses together (Sec. III-E).

        Args:
            batch: this worker's share of the global batch.

        Returns:
            "known", "hole", "variation" and, unless both are switched off, "perceptual" and
            "style", weighted.
        """
        prediction: Prediction = self.prepared_generator(batch.image, batch.mask)
        losses = self.losses(self.graded(batch, prediction.outputs))
        self.update("generator", losses)
        return detached(losses)

    def graded(self, batch: Batch, outputs: tuple[Tensor, ...]) -> Graded:
        """Bring a step's images together: original, outputs and composites."""
        image, hole = self.colours(batch.image), (batch.mask != 0).to(batch.image.dtype)
        composites = tuple(paste(output, image, hole) for output in outputs)
        return Graded(image, hole, outputs, composites)

    def losses(self, graded: Graded) -> dict[str, Tensor]:
        """Return all losses of a step, weighted."""
        of_features = {}
        if self.perceptual is not None:
            of_features = self.feature_losses(graded, self.perceptual)
        return {**self.pixel_losses(graded), **of_features, **self.variation_losses(graded)}

    def pixel_losses(self, graded: Graded) -> dict[str, Tensor]:
        """Match the original, the hole above all; means over all pixels, hole or not."""
        config, known = self.config, 1.0 - graded.hole
        outputs = [graded.outputs[index] for index in self.supervision.pixels]
        inside = [weighted_l1(output, graded.image, graded.hole) for output in outputs]
        outside = [weighted_l1(output, graded.image, known) for output in outputs]
        return {
            "known": config.known_weight * torch.stack(outside).sum(),
            "hole": config.hole_weight * torch.stack(inside).sum(),
        }

    def feature_losses(self, graded: Graded, perceptual: nn.Module) -> dict[str, Tensor]:
        """Look like the original to VGG-16, where things are and in style.

        The images pass in one batch, each followed by its composite; the original once.
        """
        config, plan = self.config, self.supervision
        pairs = [
            torch.stack([graded.outputs[index], graded.composites[index]])
            for index in plan.perceptual
        ]
        count = graded.image.shape[0]
        with torch.no_grad():
            real = perceptual(graded.image)
        seen = [
            features.unflatten(0, (len(pairs), 2, count))
            for features in perceptual(torch.cat(pairs).flatten(0, 1))
        ]
        styled = [plan.perceptual.index(index) for index in plan.style]
        content = [
            distance_of_pairs(predicted, of) for predicted, of in zip(seen, real, strict=True)
        ]
        style = [
            # A list as an index would be copied to a GPU each time.
            distance_of_pairs(gram(torch.stack([predicted[at] for at in styled])), gram(of))
            for predicted, of in zip(seen, real, strict=True)
        ]
        return {
            "perceptual": config.perceptual_weight * torch.stack(content).sum(),
            "style": config.style_weight * torch.stack(style).sum(),
        }

    def variation_losses(self, graded: Graded) -> dict[str, Tensor]:
        """Keep composites smooth."""
        terms = [total_variation(graded.composites[index]) for index in self.supervision.variation]
        return {"variation": self.config.variation_weight * torch.stack(terms).sum()}


def distance_of_pairs(predicted: Tensor, real: Tensor) -> Tensor:
    """Return the sum over n images and their composites of mean(|predicted - real|).

    Args:
        predicted: [n, 2, B, ...].
        real: [B, ...].
    """
    everything = torch.ones((), device=real.device)
    return predicted.shape[0] * predicted.shape[1] * weighted_l1(predicted, real, everything)


def total_variation(image: Tensor) -> Tensor:
    """Return mean(|difference of rows|) + mean(|difference of columns|) of [B, 3, H, W].

    Each mean is over its own number of differences, hole or not (released).
    """
    image = at_least_float32(image)
    down = image[:, :, 1:] - image[:, :, :-1]
    across = image[..., 1:] - image[..., :-1]
    return down.abs().mean() + across.abs().mean()
