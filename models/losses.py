"""Loss terms that at least two papers use. All means are over every element."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32

__all__ = [
    "detached",
    "frozen",
    "gram",
    "hinge_discriminator",
    "hinge_generator",
    "non_saturating_discriminator",
    "non_saturating_generator",
    "weighted_l1",
]


def weighted_l1(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return mean(|prediction - target| * weight), a scalar.

    Args:
        prediction: any shape.
        target: broadcast over the prediction.
        weight: broadcast over the prediction; its mean does not divide the result.
    """
    difference = (at_least_float32(prediction) - at_least_float32(target)).abs()
    return (difference * weight).mean()


def gram(features: Tensor) -> Tensor:
    """Return each picture's Gram matrix over C * H * W, at least float32.

    Args:
        features: [..., C, H, W].

    Returns:
        [..., C, C]: sums over up to 128^2 positions, which half precision does not hold.
    """
    with torch.autocast(features.device.type, enabled=False):
        # A row for each position: a view where channels are innermost, of maps and gradients.
        rows = at_least_float32(features).movedim(-3, -1).flatten(-3, -2)
        # Divided before the product, so that no sum is larger than the result.
        scaled = rows / (rows.shape[-2] * rows.shape[-1])
        return scaled.mT @ rows


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of the two binary cross-entropies of a discriminator's logits."""
    return 0.5 * (_cross_entropy(real, 1.0) + _cross_entropy(fake, 0.0))


def non_saturating_generator(fake: Tensor) -> Tensor:
    """Return -mean(log D) for the logits of generated images: the non-saturating GAN loss."""
    return _cross_entropy(fake, 1.0)


def _cross_entropy(logits: Tensor, truth: float) -> Tensor:
    logits = at_least_float32(logits)
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return half of mean(relu(1 - real)) + mean(relu(1 + fake)), for logits."""
    real, fake = at_least_float32(real), at_least_float32(fake)
    return 0.5 * (functional.relu(1.0 - real).mean() + functional.relu(1.0 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """Return -mean(logits) of generated images."""
    return -at_least_float32(fake).mean()


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Turn off the gradients of a network's parameters, not those through it.

    In the generator's pass nothing of the discriminator is then computed, or reduced over
    workers when the unwrapped network is the one called.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield network
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses without their graphs, as an objective's ``step`` reports them."""
    return {name: loss.detach() for name, loss in losses.items()}
