"""The U-Net: what it adds to the first guess, at a quarter of the size and less."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.layers import at_least_float32
from infill.models.masking import hide
from infill.models.prefill import prefill
from infill.models.unet.config import SHUFFLE, UNetConfig

SLOPE = 0.1
"""Slope of the activations below 0: maps of one sign would die before they are of use."""
OUTPUT_SCALE = 0.1
"""The last convolution's output is scaled by this, which tames its first steps."""
OUTPUT_DEVIATION = 0.01
"""Standard deviation of that convolution's first weights: training starts near the first guess."""


class Prediction(NamedTuple):
    """The generator's output."""

    final: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    first_guess: Tensor
    """The smooth filling that it corrects, [B, 3, H, W] in [-1, 1]."""


class Layer(nn.Module):
    """A 3 x 3 convolution without bias, a batch norm and a leaky ReLU."""

    def __init__(self, wide: int, narrow: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wide, narrow, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(narrow)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C', H / stride, W / stride]."""
        return functional.leaky_relu(self.norm(self.conv(features)), SLOPE, inplace=True)


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Layer(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Refine [B, C, H, W]."""
        refined = self.norm(self.second(self.first(features)))
        return functional.leaky_relu(features + refined, SLOPE)


def stage(wide: int, narrow: int, num_blocks: int, stride: int = 1) -> nn.Sequential:
    """Return a layer that changes the width, and the size by ``stride``, and residual blocks."""
    blocks = (ResidualBlock(narrow) for _ in range(num_blocks))
    return nn.Sequential(Layer(wide, narrow, stride), *blocks)


class Generator(nn.Module):
    """Fill a hole smoothly, then add what a U-Net makes of its surroundings."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths, blocks, cell = config.channels, config.num_blocks, SHUFFLE**2
        pairs = list(zip(widths, widths[1:], strict=False))
        self.size_multiple = config.size_multiple
        self.entry = stage(4 * cell, widths[0], blocks)
        self.down = nn.ModuleList(stage(wide, deep, blocks, 2) for wide, deep in pairs)
        self.middle = nn.Sequential(*(ResidualBlock(widths[-1]) for _ in range(2 * blocks)))
        self.up = nn.ModuleList(stage(deep + wide, wide, blocks) for wide, deep in reversed(pairs))
        self.out = nn.Conv2d(widths[0], 3 * cell, 3, padding=1, bias=False)
        nn.init.normal_(self.out.weight, std=OUTPUT_DEVIATION)

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Predict the whole frame; known pixels are as they came.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.

        Raises:
            ValueError: if H or W is not a multiple of ``size_multiple``.
        """
        height, width = image.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"this U-Net takes sides that are multiples of {self.size_multiple} px, not "
                f"{height} x {width}; pad with infill.models.architecture.fill"
            )
        mask = mask.to(image.dtype)
        guess = prefill(hide(image, mask), mask)
        added = OUTPUT_SCALE * at_least_float32(self.correct(guess, mask)) * mask
        return Prediction((at_least_float32(guess) + added).clamp(-1.0, 1.0), guess)

    def correct(self, guess: Tensor, mask: Tensor) -> Tensor:
        """Return what is to be added to the first guess, before scaling: [B, 3, H, W]."""
        features = self.entry(functional.pixel_unshuffle(torch.cat([guess, mask], 1), SHUFFLE))
        passed = []
        for down in self.down:
            passed.append(features)
            features = down(features)
        features = self.middle(features)
        for up in self.up:
            wider = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = up(torch.cat([wider, passed.pop()], dim=1))
        shuffled: Tensor = functional.pixel_shuffle(self.out(features), SHUFFLE)
        return shuffled
