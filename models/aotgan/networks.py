"""AOT-GAN's generator of aggregated contextual transformations, and its patch discriminator."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.aotgan.config import AOTGANConfig
from infill.models.layers import SpectralConv2d, at_least_float32
from infill.models.masking import hide
from infill.models.padding import Mode, bordered

SMALLEST_SIDE_PX = 16
"""Frames are at least this large: the entry reflects 3 px, the blocks work at a quarter."""
DEVIATION = 0.02
"""Standard deviation of the kernels before training, as released."""


class Prediction(NamedTuple):
    """The generator's output."""

    final: Tensor
    """[B, 3, H, W] in [-1, 1]."""


class ReflectedConv(nn.Conv2d):
    """A convolution of 3 x 3 or more that mirrors the border and keeps the size."""

    def __init__(self, wide: int, narrow: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__(wide, narrow, kernel, dilation=dilation)
        self.reach = dilation * (kernel // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve [B, C, H, W]; where a map is smaller than the border its edge is repeated."""
        mode: Mode = "reflect" if self.reach < min(features.shape[-2:]) else "replicate"
        return super().forward(bordered(features, self.reach, mode))


class AOTBlock(nn.Module):
    """Transform features at several dilations, fuse them, and mix both by a gate."""

    def __init__(self, config: AOTGANConfig) -> None:
        super().__init__()
        wide = config.block_channels
        narrow = wide // len(config.rates)
        self.branches = nn.ModuleList(
            ReflectedConv(wide, narrow, dilation=rate) for rate in config.rates
        )
        self.fuse = ReflectedConv(wide, wide)
        self.gate = ReflectedConv(wide, wide) if config.residual == "gated" else None

    def forward(self, features: Tensor) -> Tensor:
        """Refine [B, C, H, W]."""
        seen = torch.cat([functional.relu(branch(features)) for branch in self.branches], dim=1)
        fused: Tensor = self.fuse(seen)
        if self.gate is None:
            return features + fused
        share = self.share(features)
        return features * (1 - share) + fused * share

    def share(self, features: Tensor) -> Tensor:
        """Return how much of the fused features each position takes: [B, C, H, W], 0 to 1."""
        assert self.gate is not None
        logits = spread(self.gate(features))
        return torch.sigmoid(logits).to(features.dtype)


def spread(features: Tensor) -> Tensor:
    """Return 10 times the standard score of each position of a map, less 5; at least float32.

    The released layer norm of the gates: over height and width, with the unbiased deviation and
    without parameters, so that most gates are nearly shut and some wide open.

    Args:
        features: [B, C, H, W].
    """
    full = at_least_float32(features)
    deviation, mean = torch.std_mean(full, dim=(2, 3), keepdim=True)
    return 5 * (2 * (full - mean) / (deviation + 1e-9) - 1)


class Doubling(nn.Module):
    """Enlarge twice, corners on corners, and convolve."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wide, narrow, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B, C, H, W] into [B, C', 2H, 2W]."""
        larger = functional.interpolate(
            features, scale_factor=2, mode="bilinear", align_corners=True
        )
        return functional.relu(self.conv(larger))


class Generator(nn.Module):
    """Encode, reason at a quarter of the size, decode."""

    def __init__(self, config: AOTGANConfig) -> None:
        super().__init__()
        c = config.channels
        self.size_multiple = config.size_multiple
        self.entry = ReflectedConv(4, c, kernel=7)
        self.halvings = nn.ModuleList(
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1) for width in (c, 2 * c)
        )
        self.blocks = nn.Sequential(*(AOTBlock(config) for _ in range(config.num_blocks)))
        self.doublings = nn.Sequential(Doubling(4 * c, 2 * c), Doubling(2 * c, c))
        self.out = nn.Conv2d(c, 3, 3, padding=1)
        self.apply(initialise)

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        """Predict the whole frame.

        Args:
            image: [B, 3, H, W] in [-1, 1]; pixels inside the hole are ignored.
            mask: [B, 1, H, W], 1 in the hole.

        Raises:
            ValueError: if H or W is not a multiple of 4, or under 16.
        """
        check_size(image, self.size_multiple)
        features = functional.relu(self.entry(masked_input(image, mask)))
        for halving in self.halvings:
            features = functional.relu(halving(features))
        decoded = self.doublings(self.blocks(features))
        return Prediction(torch.tanh(at_least_float32(self.out(decoded))))


def masked_input(image: Tensor, mask: Tensor) -> Tensor:
    """Return what the generator reads: the image, white in its hole, and the mask: [B, 4, H, W]."""
    hole = mask.to(image.dtype)
    return torch.cat([hide(image, mask) + hole, hole], dim=1)


def check_size(image: Tensor, size_multiple: int) -> None:
    """Refuse a frame that cannot be halved twice.

    Raises:
        ValueError: with the size expected and the one that came.
    """
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple or min(height, width) < SMALLEST_SIDE_PX:
        raise ValueError(
            f"AOT-GAN takes sides that are multiples of {size_multiple} px from "
            f"{SMALLEST_SIDE_PX} px, not {height} x {width}; "
            "pad with infill.models.architecture.fill"
        )


def initialise(module: nn.Module) -> None:
    """Give a convolution its kernels before training, as released."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Discriminator(nn.Module):
    """Five convolutions, all but the last divided by their spectral norms.

    The released code initialises only the last one its own way: under a spectral norm its
    initialisation does not reach the kernels.
    """

    def __init__(self, config: AOTGANConfig) -> None:
        super().__init__()
        c = config.discriminator_channels
        widths, strides = (3, c, 2 * c, 4 * c, 8 * c), (2, 2, 2, 1)
        self.convs = nn.ModuleList(
            SpectralConv2d(wide, narrow, 4, stride, padding=1, bias=False)
            for wide, narrow, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.out = nn.Conv2d(widths[-1], 1, 4, padding=1)
        initialise(self.out)

    def forward(self, image: Tensor) -> Tensor:
        """Return where [B, 3, H, W] in [-1, 1] looks generated: [B, 1, H / 8 - 2, W / 8 - 2]."""
        features = image
        for conv in self.convs:
            features = functional.leaky_relu(conv(features), 0.2)
        scores: Tensor = self.out(features)
        return scores
